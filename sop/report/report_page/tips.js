// Short texts beside what is pointed at: the meaning of a name, or the values of a mark in a chart.

// Shows lines of elements or strings at a point of the window.
function showTip(x, y, ...lines) {
  const tip = document.getElementById("tip");
  // What is outside an open dialog is below it.
  (document.querySelector("dialog[open]") ?? document.body).append(tip);
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const right = Math.max(8, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.min(x, right)}px`;
  const fits = y + tip.offsetHeight < innerHeight;
  tip.style.top = `${fits ? y : Math.max(8, y - tip.offsetHeight - 36)}px`;
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}

// Elements with a `data-term` show its meaning: under the mouse, with the focus, and on a tap.
function explainTerms(terms) {
  const find = (event) => (event.target instanceof Element ? event.target.closest("[data-term]") : null);
  const show = (event) => {
    const element = find(event);
    if (!element) return;
    const box = element.getBoundingClientRect();
    showTip(box.left, box.bottom + 6, terms[element.dataset.term]);
  };
  const hide = (event) => {
    if (find(event)) hideTip();
  };
  document.addEventListener("mouseover", show);
  document.addEventListener("mouseout", hide);
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", hide);
  document.addEventListener("click", (event) => (find(event) ? show(event) : hideTip()));
  document.addEventListener("scroll", hideTip, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
  });
}

// A name, with its meaning if it has one.
function term(name, terms) {
  return name in terms ? make("span", { class: "term", tabindex: 0, "data-term": name }, name) : name;
}
