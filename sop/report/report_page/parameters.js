// The search in the parameters, by words or by what differs.

function findParameters(form) {
  const rows = [...document.querySelectorAll("#parameter-rows tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const { text, changed } = form.elements;
  const show = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, k) => {
      const differs = row.classList.contains("changed");
      row.hidden = (changed?.checked && !differs) || !words.every((word) => texts[k].includes(word));
    });
    const left = rows.filter((row) => !row.hidden).length;
    document.getElementById("parameter-count").textContent = `${left} of ${rows.length}`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}
