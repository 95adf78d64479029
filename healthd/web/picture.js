// A canvas that shows one decoded picture, or none. It holds no address of a blob: nothing has to be given back.

// The steps between which nobody sees a difference: viewers with screens of all sizes share a few variants.
const WIDTHS = [320, 480, 640, 960, 1280, 1920];

// How wide a picture to ask for, for a box of so many CSS pixels.
export function fittingWidth(pixels) {
  const needed = pixels * (globalThis.devicePixelRatio || 1);
  return WIDTHS.find((width) => width >= needed) ?? WIDTHS.at(-1);
}

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("bitmaprenderer");
    this.shown = false;
  }

  // Show a decoded picture; it belongs to the canvas from then on.
  show(bitmap) {
    if (this.canvas.width !== bitmap.width) this.canvas.width = bitmap.width;
    if (this.canvas.height !== bitmap.height) this.canvas.height = bitmap.height;
    this.context.transferFromImageBitmap(bitmap);
    this.canvas.hidden = false;
    this.shown = true;
  }

  clear() {
    if (!this.shown) return;
    this.shown = false;
    this.canvas.hidden = true;
    this.context.transferFromImageBitmap(null);
  }
}
