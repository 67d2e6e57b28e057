// Formatting of numbers, and creation of elements.

const DASH = "\u2013";

// As `_written` in page.py: a minus sign, two decimals, a dash for a missing value.
function decibels(value, signed = false) {
  if (value === null) return DASH;
  const text = Math.abs(value).toFixed(2);
  if (value < 0) return `\u2212${text}`;
  return signed ? `+${text}` : text;
}

// Creates an element; strings among its children become text, never markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
