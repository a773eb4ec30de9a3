"use strict";
(() => {
  // Sorting: a press on a heading sorts by its column; numbers as numbers, empty cells last either way.
  const value = (row, index) => row.cells[index].dataset.sort;
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, index) => {
      head.querySelector("button").addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const text = index === 0 || isNaN(value(table.tBodies[0].rows[0], index));
        const up = before ? before === "descending" : text;
        const rows = [...table.tBodies[0].rows].sort((a, b) => {
          const [one, other] = [value(a, index), value(b, index)];
          if (one === "" || other === "") return (one === "") - (other === "");
          return up ? compare(one, other) : compare(other, one);
        });
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        table.tBodies[0].append(...rows);
      });
    });
  }

  // Pointing at a variant anywhere brings it out everywhere.
  let hot = null;
  const show = (name) => {
    if (name === hot) return;
    hot = name;
    for (const marked of document.querySelectorAll(".hot")) marked.classList.remove("hot");
    if (name === null) {
      delete document.body.dataset.hot;
      return;
    }
    document.body.dataset.hot = name;
    for (const one of document.querySelectorAll(`[data-variant="${CSS.escape(name)}"]`)) one.classList.add("hot");
  };
  document.addEventListener("pointerover", (event) => {
    const found = event.target.closest("[data-variant]");
    show(found ? found.dataset.variant : null);
  });
  document.addEventListener("pointerleave", () => show(null));

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const block = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(block.textContent);
        button.textContent = "Copied";
      } catch {
        // Without the right to the clipboard the text is marked, and the person copies it.
        getSelection().selectAllChildren(block);
        button.textContent = "Marked: press Ctrl+C";
      }
      setTimeout(() => (button.textContent = "Copy"), 2500);
    });
  }
})();
