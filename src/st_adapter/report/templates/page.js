"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
all(".tools").forEach(tools => { tools.hidden = false; });

// Sort a table by a column: its data-value, or a number if the text starts with one, else the text.
for (const table of all("table[data-sort]")) {
  const headers = all("thead th", table);
  headers.forEach((header, column) => {
    if ("fixed" in header.dataset) return;
    const button = document.createElement("button");
    button.textContent = header.textContent;
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach(other => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const order = (a, b) => (parseFloat(key(a)) - parseFloat(key(b))) || key(a).localeCompare(key(b), undefined, {numeric: true});
      table.tBodies[0].append(...[...table.rows].slice(1).sort((a, b) => up ? order(a, b) : order(b, a)));
    });
  });
}
for (const input of all("[data-filter]")) {
  const rows = all(`#${input.dataset.filter} tbody tr`);
  input.addEventListener("input", () => rows.forEach(row => {
    row.hidden = !row.cells[0].textContent.toLowerCase().includes(input.value.toLowerCase());
  }));
}

// Predictions: rows of the page, then those of the list "more", which become rows when they are found.
const answers = document.getElementById("answers");
if (answers) {
  const SHOWN = 300, body = answers.tBodies[0], box = document.querySelector("[data-answers]");
  const [input, which, count] = ["input", "select", "output"].map(name => box.querySelector(name));
  const more = JSON.parse(document.getElementById("more")?.textContent ?? '{"labels": [], "rows": []}');
  const names = found => typeof found === "number" ? more.labels[found] : found.map(i => more.labels[i]).join(", ") || "nothing";
  const items = all("tr", body).map(row => ({row, is: row.dataset.is, text: row.textContent.toLowerCase()}));
  for (const [label, predicted, score, name] of more.rows) {
    const is = `${label}` === `${predicted}` ? "right" : "wrong";
    items.push({is, values: [names(label), names(predicted), `${score} %`, name], text: `${names(label)} ${names(predicted)} ${name}`.toLowerCase()});
  }
  const makeRow = ({is, values}) => {
    const row = document.createElement("tr"), titles = ["True class", "Predicted", "Score", "Video"];
    row.className = "bare";
    row.append(document.createElement("td"));
    row.cells[0].className = "strip full";
    values.forEach((value, i) => {
      const cell = row.appendChild(document.createElement("td"));
      cell.dataset.name = titles[i];
      cell.className = ["", is, "number", "small"][i];
      cell.textContent = i === 1 ? `${is === "right" ? "✓" : "✗"} ${value}` : value;
    });
    return row;
  };
  const show = () => {
    const words = input.value.toLowerCase().split(" ");
    const found = items.filter(item => (!which.value || item.is === which.value) && words.every(word => item.text.includes(word)));
    const shown = found.slice(0, SHOWN);
    body.replaceChildren(...shown.map(item => item.row ??= makeRow(item)));
    count.textContent = found.length > SHOWN ? `${found.length} found, the first ${SHOWN} shown` : `${found.length} found`;
  };
  input.addEventListener("input", show);
  which.addEventListener("input", show);
  show();
}

// Play a video in the place of its film strip. The link opens the file where that fails.
addEventListener("click", event => {
  const link = event.target.closest("a[data-play]");
  if (!link || event.ctrlKey || event.metaKey) return;
  const place = link.closest("tr, figure").querySelector("a[data-play]");
  if (!place.querySelector("img")) return;
  event.preventDefault();
  const strip = place.cloneNode(true), video = document.createElement("video");
  Object.assign(video, {src: link.href, controls: true, autoplay: true, muted: true, loop: true});
  video.addEventListener("error", () => { video.replaceWith(strip); location.href = link.href; });
  place.replaceWith(video);
  video.focus();
});

// Play a span in the player. Where the browser cannot play the video, times are plain text.
const player = document.querySelector("video[data-src]");
if (player) {
  const card = player.closest("section"), links = all("a[data-seek]");
  const remove = () => { card.remove(); links.forEach(link => link.replaceWith(...link.childNodes)); };
  player.addEventListener("error", remove);
  player.addEventListener("loadedmetadata", () => {
    if (!player.videoWidth) return remove();  // it can only play the sound
    card.hidden = false;
    card.classList.add("w5");
    document.getElementById("spans").classList.add("w7");
  });
  addEventListener("click", event => {
    const link = event.target.closest("a[data-seek]");
    if (!link || card.hidden || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    player.currentTime = Number(link.dataset.seek);
    player.play().catch(() => {});
    card.scrollIntoView({block: "nearest"});
  });
  player.src = player.dataset.src;  // now, so that no event comes before it is listened to
}

// Name the cell of a heat map under the pointer.
for (const heat of all("[data-heat]")) {
  const labels = JSON.parse(document.getElementById(heat.dataset.heat).textContent);
  const [image, output] = [heat.querySelector("img"), heat.querySelector("output")];
  output.hidden = false;
  output.textContent = "Point at a cell to read its classes.";
  image.addEventListener("pointermove", event => {
    const {left, top, width, height} = image.getBoundingClientRect();
    const at = (place, size) => labels[Math.max(0, Math.min(labels.length - 1, Math.floor(place / size * labels.length)))];
    output.textContent = `true: ${at(event.clientY - top, height)}; predicted: ${at(event.clientX - left, width)}`;
  });
}
