"use strict";
(() => {
  // Filters and sorts the gallery and the table together; the state stands in the address, so that a view can be linked.
  const tools = document.getElementById("tools");
  if (!tools) return;
  const items = [...document.querySelectorAll("[data-index]")];
  const field = (name) => tools.elements[name];
  const names = ["class", "verdict", "most", "text", "sort"];
  const total = new Set(items.map((item) => item.dataset.index)).size;
  const number = (item, key) => (item.dataset[key] === "" ? Infinity : Number(item.dataset[key]));

  function wanted(item) {
    const { label, verdict, name } = item.dataset;
    return (!field("class").value || label === field("class").value)
      && (!field("verdict").value || verdict === field("verdict").value)
      && (!field("most").value || number(item, "pixels") <= Number(field("most").value))
      && (!field("text").value || name.toLowerCase().includes(field("text").value.toLowerCase()));
  }

  function compare(a, b, key) {
    const [x, y] = key === "verdict" ? [a.dataset.verdict, b.dataset.verdict] : [number(a, key), number(b, key)];
    return x < y ? -1 : x > y ? 1 : 0;
  }

  function apply() {
    const shown = new Set();
    for (const item of items) {
      item.hidden = !wanted(item);
      if (!item.hidden) shown.add(item.dataset.index);
    }
    const [key, down] = field("sort").value.split("-");
    for (const parent of new Set(items.map((item) => item.parentElement))) {
      const own = items.filter((item) => item.parentElement === parent);
      const sign = down ? -1 : 1;
      // what has no number of pixels stays last in both directions
      own.sort((a, b) => {
        const lacks = Number(a.dataset[key] === "") - Number(b.dataset[key] === "");
        return lacks || sign * compare(a, b, key) || number(a, "index") - number(b, "index");
      });
      parent.append(...own);
    }
    for (const head of document.querySelectorAll("th[data-sort]")) {
      if (head.dataset.sort === key) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    document.getElementById("shown").textContent = `${shown.size} of ${total} images shown`;
  }

  function remember() {
    const state = new URLSearchParams();
    for (const name of names) if (field(name).value && !(name === "sort" && field(name).value === "index")) state.set(name, field(name).value);
    history.replaceState(null, "", `#${state}`);
  }

  function recall() {
    if (!location.hash.includes("=")) return;
    const state = new URLSearchParams(location.hash.slice(1));
    for (const name of names) field(name).value = state.get(name) ?? (name === "sort" ? "index" : "");
    if (field("sort").selectedIndex < 0) field("sort").value = "index";
    apply();
  }

  for (const head of document.querySelectorAll("th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const key = head.dataset.sort;
      field("sort").value = field("sort").value === key ? `${key}-down` : key;
      if (field("sort").selectedIndex < 0) field("sort").value = key;
      remember();
      apply();
    });
  }
  tools.addEventListener("input", () => { remember(); apply(); });
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(() => { remember(); apply(); }));
  addEventListener("hashchange", recall);
  tools.hidden = false;
  apply();
  recall();
})();
