// Numbers and elements as the page writes them.

const DASH = "\u2013";

// As Python's `_written`: true minus, two places, a dash for what is missing.
function decibels(value, signed = false) {
  if (value === null) return DASH;
  const text = Math.abs(value).toFixed(2);
  if (value < 0) return `\u2212${text}`;
  return signed ? `+${text}` : text;
}

// An element; strings among its children are text, whatever they hold.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
