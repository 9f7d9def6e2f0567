/**
 * Changes the windows of one file within one operation: copies a window when it is first touched, frees the blocks
 * that are replaced, and counts what the file gains and loses.
 */

import { SECTORS_PER_BLOCK } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import type { ReserveOfMeta } from '../api.js';
import {
  copyWindow,
  emptyWindow,
  isEmptyWindow,
  recordBytes,
  WINDOW_BLOCKS,
  type Window,
} from '../format/window.js';
import type { Overlay } from '../meta/overlay.js';

export class WindowEdit {
  readonly #overlay: Overlay;
  readonly #fid: Fid;
  readonly #edited = new Map<number, Window>();
  #blocks = 0;

  constructor(overlay: Overlay, fid: Fid) {
    this.#overlay = overlay;
    this.#fid = fid;
  }

  place(block: number): number {
    const index = Math.floor(block / WINDOW_BLOCKS);
    const window = this.#edited.get(index) ?? this.#overlay.window(this.#fid, index);
    return window?.place[block % WINDOW_BLOCKS] ?? 0;
  }

  /** @param place as in Window. What was there before is freed, unless it is the same device block. */
  set(block: number, place: number, crc: number): void {
    const window = this.#edit(Math.floor(block / WINDOW_BLOCKS));
    const at = block % WINDOW_BLOCKS;
    const before = window.place[at] ?? 0;
    if (before !== 0 && Math.abs(before) !== Math.abs(place)) this.#overlay.freeBlock(Math.abs(before));
    if (before !== 0) this.#blocks--;
    if (place !== 0) this.#blocks++;
    window.place[at] = place;
    window.crc[at] = crc;
  }

  /** Makes the blocks [start, end) holes. Windows that have none of them are not touched. */
  clear(start: number, end: number): void {
    for (let block = start; block < end; ) {
      const index = Math.floor(block / WINDOW_BLOCKS);
      const windowEnd = Math.min(end, (index + 1) * WINDOW_BLOCKS);
      if (this.#edited.has(index) || this.#overlay.window(this.#fid, index) !== undefined) {
        for (; block < windowEnd; block++) if (this.place(block) !== 0) this.set(block, 0, 0);
      }
      block = windowEnd;
    }
  }

  /** What the operation may use of the meta device when its records replace those that are there. */
  get reserve(): ReserveOfMeta {
    let isLonger = false;
    for (const [index, window] of this.#edited) {
      const before = this.#overlay.window(this.#fid, index);
      if (before === undefined) return false;
      isLonger ||= recordBytes(window) > recordBytes(before);
    }
    return isLonger ? 'replaces' : true;
  }

  /** Hands the windows over to the operation. @returns the change of st_blocks. */
  finish(): number {
    for (const [index, window] of this.#edited) {
      this.#overlay.setWindow(this.#fid, index, isEmptyWindow(window) ? null : window);
    }
    return this.#blocks * SECTORS_PER_BLOCK;
  }

  #edit(index: number): Window {
    let window = this.#edited.get(index);
    if (window === undefined) {
      const before = this.#overlay.window(this.#fid, index);
      window = before === undefined ? emptyWindow() : copyWindow(before);
      this.#edited.set(index, window);
    }
    return window;
  }
}
