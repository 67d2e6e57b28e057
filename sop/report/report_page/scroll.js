// Tables that are wider than the window say so: shadows at the edges behind which there is more, and
// a line of text, because phones hide scroll bars.

function markScrolling(places) {
  for (const place of places) {
    const more = make("p", { class: "more", "aria-hidden": "true", hidden: true }, "more columns \u2192");
    place.after(more);
    const mark = () => {
      const rest = place.scrollWidth - place.clientWidth;
      place.classList.toggle("more-left", place.scrollLeft > 1);
      place.classList.toggle("more-right", place.scrollLeft < rest - 1);
      more.hidden = rest <= 1;
      more.textContent = place.scrollLeft < rest - 1 ? "more columns \u2192" : "\u2190 more columns";
    };
    place.addEventListener("scroll", mark, { passive: true });
    const sizes = new ResizeObserver(mark);
    sizes.observe(place);
    for (const table of place.children) sizes.observe(table);
  }
}
