// The strip of small pictures: three examples, and those that the visitor has opened.

import { element } from "./view.js";

export const EXAMPLES = [
  ["example.jpg", "Grace Hopper"],
  ["cat.jpg", "A cat"],
  ["coffee.jpg", "A cup of coffee"],
];

// Older ones leave the strip, so memory stays bounded.
const MOST_PICTURES = 24;

/** Show the examples; `open` is called with the blob and the name of the picture that was chosen. */
export function offerExamples(first, open) {
  EXAMPLES.forEach(([file, name], i) => {
    const button = append(file, name);
    button.blob = i ? null : first;
    button.onclick = async () => {
      button.blob ??= await (await fetch(file)).blob();
      open(button.blob, file);
    };
  });
}

/** Add a picture of the visitor, if the browser can read it. */
export function addPicture(blob, name, open) {
  const button = append(URL.createObjectURL(blob), name);
  Object.assign(button, { blob, onclick: () => open(blob, name) });
  button.firstChild.onerror = () => button.remove();
  for (const old of [...element.strip.children].slice(EXAMPLES.length, -MOST_PICTURES)) {
    URL.revokeObjectURL(old.firstChild.src);
    old.remove();
  }
}

/** Mark the picture on the page. */
export function markPicture(blob) {
  for (const button of element.strip.children) {
    button.ariaPressed = String(button.blob === blob);
  }
}

function append(address, name) {
  const button = Object.assign(document.createElement("button"), { type: "button", title: name, ariaPressed: "false" });
  button.append(Object.assign(new Image(), { src: address, alt: name }));
  element.strip.append(button);
  return button;
}
