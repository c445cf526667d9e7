// What the map says about a point and about an area of the picture: values, and the share of attention.

import { state } from "./maps.js";
import { element } from "./view.js";

const SIDES = ["left", "top", "width", "height"];

// A smaller drag is a click, which removes the area.
const SMALLEST_DRAG = 3;

let area = null; // {left, top, width, height} in whole pixels of the picture; null for none
let drag = null; // {pane, x, y}: where the pointer was pressed

/**
 * The share of attention of an area: the sum of the map inside, divided by the sum of the whole map.
 *
 * Like `msinet regions`: a pixel of the map belongs to the area if its center does.
 *
 * @param {{values: ArrayLike<number>, height: number, width: number}} result the map.
 * @param {{left: number, top: number, width: number, height: number}} box in pixels of the picture.
 * @param {{height: number, width: number}} picture its size; a live map is smaller.
 * @returns {{attention: number, area: number, lift: number}} shares, 0 to 1, and the ratio of the first two.
 */
export function shareOf({ values, height, width }, box, picture) {
  const first = (start, sides) => Math.min(sides[0], Math.max(0, Math.ceil((start * sides[0]) / sides[1] - 0.5)));
  const [columns, rows] = [[width, picture.width], [height, picture.height]];
  const [left, right] = [first(box.left, columns), first(box.left + box.width, columns)];
  const [top, bottom] = [first(box.top, rows), first(box.top + box.height, rows)];
  let inside = 0;
  let whole = 0;
  for (let row = 0, i = 0; row < height; row++) {
    for (let column = 0; column < width; column++, i++) {
      whole += values[i];
      inside += row >= top && row < bottom && column >= left && column < right ? values[i] : 0;
    }
  }
  const part = ((right - left) * (bottom - top)) / (width * height);
  const attention = whole ? inside / whole : part;
  return { attention, area: part, lift: attention / part };
}

/** Connect the pointer, the button and the four numbers. */
export function connectArea() {
  const { panes } = element;
  panes.ondragstart = (event) => event.preventDefault();
  panes.onpointerdown = press;
  panes.onpointermove = move;
  panes.onpointerup = release;
  panes.onpointercancel = () => (drag = null);
  panes.onpointerleave = () => read(null);
  element.mark.onclick = () => setArea(area ? null : middle());
  for (const side of SIDES) {
    element[`area-${side}`].onchange = () => setArea(fromNumbers());
  }
  element.map.addEventListener("mapped", showAnswer);
}

/** Set the area; null removes it. */
export function setArea(box) {
  area = box && inPicture(box);
  element.mark.textContent = area ? "Remove the area" : "Mark an area";
  element.mark.ariaPressed = String(Boolean(area));
  element.panes.toggleAttribute("data-marked", Boolean(area));
  element.sides.hidden = !area;
  element.box.hidden = !area;
  if (area) {
    const { width, height } = state.source;
    SIDES.forEach((side) => (element[`area-${side}`].value = area[side]));
    const percent = [area.left / width, area.top / height, area.width / width, area.height / height];
    SIDES.forEach((side, i) => (element.box.style[side] = `${100 * percent[i]}%`));
  }
  showAnswer();
}

function inPicture({ left, top, width, height }) {
  const clamp = (value, low, high) => Math.min(high, Math.max(low, Math.round(value) || 0));
  const { source } = state;
  const [x, y] = [clamp(left, 0, source.width - 1), clamp(top, 0, source.height - 1)];
  return { left: x, top: y, width: clamp(width, 1, source.width - x), height: clamp(height, 1, source.height - y) };
}

function middle() {
  const { width, height } = state.source;
  return { left: width / 4, top: height / 4, width: width / 2, height: height / 2 };
}

const fromNumbers = () => Object.fromEntries(SIDES.map((side) => [side, Number(element[`area-${side}`].value)]));

function showAnswer() {
  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  if (!area) {
    element.answer.textContent = "Drag over the picture.";
  } else if (state.result) {
    const { attention, area: part, lift } = shareOf(state.result, area, state.source);
    element.answer.textContent =
      `${percent(attention)} of the attention on ${percent(part)} of the picture: lift ${lift.toFixed(2)}.`;
  }
}

// --- The pointer -----------------------------------------------------------------------------------------------------

// Where the pointer is in the picture, in its pixels, clamped to it.
function place(event, pane) {
  const box = pane.getBoundingClientRect();
  const fraction = (offset, side) => Math.min(1, Math.max(0, offset / side));
  const seen = fraction(event.clientX - box.left, box.width);
  const x = element.panes.hasAttribute("data-mirrored") ? 1 - seen : seen;
  const y = fraction(event.clientY - box.top, box.height);
  return { x: x * state.source.width, y: y * state.source.height };
}

function press(event) {
  const pane = event.target.closest(".pane");
  if (!pane || !state.source || event.button) {
    return;
  }
  const sliding = element.panes.dataset.view === "slider";
  if (sliding || event.pointerType === "mouse" || area) {
    element.panes.setPointerCapture(event.pointerId);
    drag = { pane, sliding, ...place(event, pane) };
    move(event);
  } else {
    read(place(event, pane)); // A finger that taps, or scrolls the page.
  }
}

function move(event) {
  const pane = drag?.pane ?? event.target.closest(".pane");
  if (!pane || !state.source) {
    return;
  }
  const point = place(event, pane);
  read(point);
  if (drag?.sliding) {
    element.blend.value = 100 - (100 * point.x) / state.source.width;
    element.blend.oninput();
  } else if (drag && isLarge(point)) {
    setArea({
      left: Math.min(drag.x, point.x),
      top: Math.min(drag.y, point.y),
      width: Math.abs(point.x - drag.x),
      height: Math.abs(point.y - drag.y),
    });
  }
}

function release(event) {
  if (drag && !drag.sliding && !isLarge(place(event, drag.pane))) {
    setArea(null);
  }
  drag = null;
}

const isLarge = ({ x, y }) => Math.max(Math.abs(x - drag.x), Math.abs(y - drag.y)) >= SMALLEST_DRAG;

// Show the value of a point of the picture.
function read(point) {
  const { result, source } = state;
  if (!point || !result) {
    element.reading.textContent = "Point to read a value.";
    return;
  }
  const [x, y] = [Math.min(source.width - 1, Math.floor(point.x)), Math.min(source.height - 1, Math.floor(point.y))];
  const column = Math.floor(((x + 0.5) * result.width) / source.width);
  const row = Math.floor(((y + 0.5) * result.height) / source.height);
  const value = result.values[row * result.width + column] / 255;
  element.reading.textContent = `x ${x}, y ${y}: ${value.toFixed(2)} of 1`;
}
