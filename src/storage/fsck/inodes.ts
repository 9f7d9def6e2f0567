/**
 * The facts that a check remembers of every inode: 34 bytes for each in flat arrays, in FID order. They suffice to
 * judge names, link counts and the tree without reading the records again.
 */

import { S_IFDIR, S_IFMT } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';

/** The record cannot be read: fsck only knows that it is there. */
export const DAMAGED = 1;
/** There is an orphan record of the inode. */
export const ORPHAN = 2;
/** The way up from the inode leads to the root. */
export const REACHED = 4;
/** The way up from the inode leads elsewhere. */
export const ASTRAY = 8;
/** The inode is on the way up that fsck follows at the moment. */
export const ON_WAY = 16;

export interface IndexedInode {
  readonly fid: Fid;
  readonly mode: number;
  readonly nlink: number;
  /** The parent that the record names. */
  readonly parent: number;
  readonly flags: number;
}

export class InodeIndex {
  #capacity = 1024;
  #fids = new Float64Array(this.#capacity);
  #parents = new Float64Array(this.#capacity);
  #nlinks = new Uint32Array(this.#capacity);
  #names = new Uint32Array(this.#capacity);
  #subdirs = new Uint32Array(this.#capacity);
  #holders = new Int32Array(this.#capacity);
  #types = new Uint8Array(this.#capacity);
  #flags = new Uint8Array(this.#capacity);
  length = 0;

  /** Call it in FID order. */
  add(inode: IndexedInode): void {
    if (this.length === this.#capacity) this.#grow();
    const at = this.length++;
    this.#fids[at] = inode.fid;
    this.#parents[at] = inode.parent;
    this.#nlinks[at] = inode.nlink;
    this.#holders[at] = -1;
    this.#types[at] = (inode.mode & S_IFMT) >>> 12;
    this.#flags[at] = inode.flags;
  }

  /** @returns the index of this FID, or -1. */
  find(fid: number): number {
    let low = 0;
    let high = this.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const found = this.#fids[middle] ?? 0;
      if (found === fid) return middle;
      if (found < fid) low = middle + 1;
      else high = middle - 1;
    }
    return -1;
  }

  fid(at: number): Fid {
    return (this.#fids[at] ?? 0) as Fid;
  }
  parent(at: number): number {
    return this.#parents[at] ?? 0;
  }
  nlink(at: number): number {
    return this.#nlinks[at] ?? 0;
  }
  /** S_IFMT bits. 0 if the record is damaged. */
  type(at: number): number {
    return (this.#types[at] ?? 0) << 12;
  }
  isDirectory(at: number): boolean {
    return this.type(at) === S_IFDIR;
  }
  has(at: number, flag: number): boolean {
    return ((this.#flags[at] ?? 0) & flag) !== 0;
  }
  set(at: number, flag: number): void {
    this.#flags[at] = (this.#flags[at] ?? 0) | flag;
  }
  unset(at: number, flag: number): void {
    this.#flags[at] = (this.#flags[at] ?? 0) & ~flag;
  }

  /**
   * Counts a name that leads to the inode. @param holder index of the directory that has the name; -1 if that directory
   * does not exist.
   */
  countName(at: number, holder: number): void {
    this.#names[at] = (this.#names[at] ?? 0) + 1;
    if (this.#names[at] === 1) this.#holders[at] = holder;
    if (holder >= 0 && this.isDirectory(at)) this.#subdirs[holder] = (this.#subdirs[holder] ?? 0) + 1;
  }
  names(at: number): number {
    return this.#names[at] ?? 0;
  }
  /** The number of directories among the inodes that its names lead to. */
  subdirs(at: number): number {
    return this.#subdirs[at] ?? 0;
  }
  /** Index of the directory that has the inode's first name, or -1. */
  holder(at: number): number {
    return this.#holders[at] ?? -1;
  }

  #grow(): void {
    this.#capacity *= 2;
    this.#fids = grown(this.#fids, new Float64Array(this.#capacity));
    this.#parents = grown(this.#parents, new Float64Array(this.#capacity));
    this.#nlinks = grown(this.#nlinks, new Uint32Array(this.#capacity));
    this.#names = grown(this.#names, new Uint32Array(this.#capacity));
    this.#subdirs = grown(this.#subdirs, new Uint32Array(this.#capacity));
    this.#holders = grown(this.#holders, new Int32Array(this.#capacity));
    this.#types = grown(this.#types, new Uint8Array(this.#capacity));
    this.#flags = grown(this.#flags, new Uint8Array(this.#capacity));
  }
}

function grown<T extends { set(source: T): void }>(from: T, to: T): T {
  to.set(from);
  return to;
}

/** A compact list of many numbers. */
export class NumberList {
  #values = new Float64Array(1024);
  length = 0;

  push(value: number): void {
    if (this.length === this.#values.length) {
      this.#values = grown(this.#values, new Float64Array(2 * this.length));
    }
    this.#values[this.length++] = value;
  }
  /** The numbers that occur more than once, at most `limit` of them. */
  duplicates(limit: number): Set<number> {
    const sorted = this.#values.subarray(0, this.length).sort();
    const found = new Set<number>();
    for (let at = 1; at < sorted.length && found.size < limit; at++) {
      const value = sorted[at] ?? 0;
      if (value === sorted[at - 1]) found.add(value);
    }
    return found;
  }
}
