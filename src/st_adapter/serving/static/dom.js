// Build elements, and write times and shares as the reports of this project do.

export const find = id => document.getElementById(id);

/** Make an element. Names with a dash and "role" are attributes, all others are properties. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Make an element of an SVG picture. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const show = (element, visible = true) => { element.hidden = !visible; };

export const clamp = (value, lowest, highest) => Math.min(highest, Math.max(lowest, value));

export const percent = share => `${(100 * share).toFixed(1)}\u00a0%`;

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** Write a time as m:ss.t or h:mm:ss.t. */
export function clock(seconds, withTenths = true) {
  const tenths = Math.round(10 * seconds);
  const [hours, minutes] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60];
  const rest = String(Math.floor(tenths / 10) % 60).padStart(2, "0");
  const start = hours ? `${hours}:${String(minutes).padStart(2, "0")}` : `${minutes}`;
  return `${start}:${rest}${withTenths ? `.${tenths % 10}` : ""}`;
}
