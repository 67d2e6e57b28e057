// The table of all sources: sorting and filters.

class Rows {
  // mixtures and measures as in the page's contents; openMixture(number) is called on a click.
  constructor(mixtures, measures, openMixture) {
    this.table = document.getElementById("rows");
    this.body = this.table.tBodies[0];
    this.form = document.getElementById("filters");
    this.count = document.getElementById("count");
    this.measures = measures;
    this.rows = mixtures.flatMap((mixture) =>
      mixture.sources.map((source, position) => this.makeRow(mixture, source, position)),
    );
    this.total = mixtures.length;
    this.sorted = { key: "number", down: false };
    this.offerCategories();
    this.form.addEventListener("input", () => this.show());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    // The form is reset after this event.
    this.form.addEventListener("reset", () => setTimeout(() => this.show()));
    for (const button of this.table.tHead.querySelectorAll("button")) {
      button.addEventListener("click", () => this.toggle(keyOf(button)));
    }
    const sdr = Math.max(0, measures.findIndex(([measure]) => measure === "sdr"));
    document.getElementById("worst").addEventListener("click", () => this.sort(sdr, false));
    document.getElementById("best").addEventListener("click", () => this.sort(sdr, true));
    this.body.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) openMixture(Number(button.value));
    });
    this.sort("number", false);
  }

  makeRow(mixture, source, position) {
    const { number, shown } = mixture;
    const label = `Open mixture ${number}${shown ? ", with sounds" : ""}`;
    const open = make("button", { type: "button", value: number, "aria-label": label }, `${number}`);
    const mark = make("span", { class: "mark", "aria-hidden": "true" }, shown ? "\u266a" : "");
    const element = make(
      "tr",
      {},
      make("td", { class: "number" }, mark, open),
      make("td", {}, source.category),
      make("td", { class: "name" }, named(source)),
      ...source.measures.map((value, k) =>
        make("td", { class: "number" }, decibels(value, this.measures[k][0] === "sdr_improvement")),
      ),
    );
    return {
      element,
      number,
      position,
      shown,
      category: source.category,
      video: source.video,
      values: source.measures,
      others: mixture.sources.filter((_, k) => k !== position).map((other) => other.category),
      text: `${number} ${source.category} ${named(source)}`.toLowerCase(),
    };
  }

  offerCategories() {
    const names = [...new Set(this.rows.map((row) => row.category))].sort(byName);
    for (const select of [this.form.elements.category, this.form.elements.other]) {
      // The first option is "any". Values are positions, because a name may be empty.
      names.forEach((name, k) => select.append(make("option", { value: k }, name)));
    }
    this.categories = names;
  }

  // The first click on a column sorts in ascending order.
  toggle(key) {
    this.sort(key, this.sorted.key === key && !this.sorted.down);
  }

  sort(key, down) {
    this.sorted = { key, down };
    const value = typeof key === "number" ? (row) => row.values[key] : (row) => row[key];
    const sign = down ? -1 : 1;
    this.rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      // Missing values come last in both directions.
      if (x === null || y === null) return (x === null) - (y === null) || inOrder(a, b);
      return sign * (typeof x === "string" ? byName(x, y) : x - y) || inOrder(a, b);
    });
    for (const button of this.table.tHead.querySelectorAll("button")) {
      const cell = button.closest("th");
      if (keyOf(button) === key) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    this.show();
  }

  show() {
    const { text, category, other, measure, min, max, shown } = this.form.elements;
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = category.value === "" ? null : this.categories[category.value];
    const mixed = other.value === "" ? null : this.categories[other.value];
    const low = min.value === "" ? -Infinity : Number(min.value);
    const high = max.value === "" ? Infinity : Number(max.value);
    const bounded = low > -Infinity || high < Infinity;
    const fits = (row) => {
      if (shown.checked && !row.shown) return false;
      if (!words.every((word) => row.text.includes(word))) return false;
      if (!isOf(row, chosen, mixed)) return false;
      const value = row.values[measure.value];
      return !bounded || (value !== null && value >= low && value <= high);
    };
    this.visible = this.rows.filter(fits);
    this.body.replaceChildren(...this.visible.map((row) => row.element));
    const mixtures = new Set(this.visible.map((row) => row.number)).size;
    this.count.textContent =
      `${this.visible.length} of ${this.rows.length} sources, ` +
      `in ${mixtures} of ${this.total} ${this.total === 1 ? "mixture" : "mixtures"}`;
  }

  // Returns the numbers of the visible mixtures, in the order of their first rows.
  order() {
    return [...new Set(this.visible.map((row) => row.number))];
  }
}

// The name of a source's video, and whether its estimate is silent.
function named(source) {
  return source.silent ? `${source.video} (silent estimate)` : source.video;
}

// With one category, its rows match; with two, both rows of the mixtures that contain them.
function isOf(row, chosen, mixed) {
  const is = (a, b) =>
    (a === null || row.category === a) && (b === null || row.others.includes(b));
  if (chosen === null) return mixed === null || row.others.includes(mixed);
  return is(chosen, mixed) || (mixed !== null && is(mixed, chosen));
}

function keyOf(button) {
  const key = button.dataset.sort;
  return /^\d+$/.test(key) ? Number(key) : key;
}

function inOrder(a, b) {
  return a.number - b.number || a.position - b.position;
}

// The same order in every browser and language.
const byName = new Intl.Collator("en", { numeric: true }).compare;
