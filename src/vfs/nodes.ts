/**
 * What the kernel holds of each inode: how often it looked it up, and whether it may have attributes or pages that it
 * believes without asking. So vfs sends an invalidation only for what is really there.
 *
 * A FID is the nodeid, so this table maps nothing. A process that takes a mount over gets the table of the one before (state()); one
 * that finds the mount of a dead process starts with an empty table, which then merely knows less. One small integer for each inode: the kernel may hold hundreds of thousands.
 *
 * Invariant: an inode with a flag stays in the table until FORGET has returned every reference we counted.
 */

import { FsError } from '../base/errno.js';
import type { Fid } from '../base/ids.js';

/** The kernel got attributes with a validity above 0. */
const ATTRS = 1;
/** The kernel read into its page cache. */
const PAGES = 2;
/** The inode was new to the kernel, and no request that names it has come since: it may not exist there yet. */
const UNPROVEN = 4;
/** Attributes of a regular file went out that the kernel may not believe, but may still apply. */
const LOOSE = 8;
const NLOOKUP_UNIT = 16;

/** held: the caller must invalidate them. unproven: the same, but the reply that brings the inode may still be on its way. */
export type AttrsDropped = 'none' | 'held' | 'unproven';

const PAIR_BYTES = 16;

export class NodeTable {
  /** nlookup * NLOOKUP_UNIT + flags. */
  readonly #nodes = new Map<Fid, number>();

  /** Number of inodes that the kernel knows. */
  get size(): number {
    return this.#nodes.size;
  }

  /** The table, for a process that takes the mount over: pairs of float64, little-endian. */
  state(): Buffer {
    const bytes = Buffer.allocUnsafe(this.#nodes.size * PAIR_BYTES);
    let at = 0;
    for (const [fid, value] of this.#nodes) {
      bytes.writeDoubleLE(fid, at);
      bytes.writeDoubleLE(value, at + 8);
      at += PAIR_BYTES;
    }
    return bytes;
  }

  /** @returns the unproven inodes. @throws FsError EPROTO if the bytes are no table. */
  takeOver(bytes: Uint8Array): Fid[] {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const unproven: Fid[] = [];
    if (bytes.length % PAIR_BYTES !== 0) throw new FsError('EPROTO', 'a table of inodes is cut off');
    for (let at = 0; at < bytes.length; at += PAIR_BYTES) {
      const fid = view.getFloat64(at, true);
      const value = view.getFloat64(at + 8, true);
      if (!Number.isSafeInteger(fid) || fid <= 0 || !Number.isSafeInteger(value) || value < 0)
        throw new FsError('EPROTO', `a table of inodes has ${value} for ${fid}`);
      this.#nodes.set(fid as Fid, value);
      if ((value & UNPROVEN) !== 0) unproven.push(fid as Fid);
    }
    return unproven;
  }

  /** One more reference, from a reply that carries an entry. */
  lookedUp(fid: Fid, attrsCacheable: boolean): void {
    const before = this.#nodes.get(fid) ?? UNPROVEN;
    const flags = before % NLOOKUP_UNIT;
    this.#nodes.set(fid, before + NLOOKUP_UNIT + (attrsCacheable && (flags & ATTRS) === 0 ? ATTRS : 0));
  }

  /** The kernel refers to the inode, or an entry that is on its way will. */
  refersTo(fid: Fid): boolean {
    return (this.#nodes.get(fid) ?? 0) >= NLOOKUP_UNIT;
  }

  /**
   * Drops kernel references to a node; frees it when none are left.
   * @param nlookup references the kernel returns, at least 1 (fuse_forget_in).
   * @returns whether none are left.
   */
  forget(fid: Fid, nlookup: number): boolean {
    const before = this.#nodes.get(fid);
    if (before === undefined) return true;
    const after = before - nlookup * NLOOKUP_UNIT;
    // May fall below zero references: after a takeover this table has counted fewer than the kernel.
    if (after >= NLOOKUP_UNIT) {
      this.#nodes.set(fid, after);
      return false;
    }
    this.#nodes.delete(fid);
    return true;
  }

  /** A request named the inode: the kernel is done with every reply that made it. */
  proven(fid: Fid): void {
    const value = this.#nodes.get(fid);
    if (value !== undefined && (value & UNPROVEN) !== 0) this.#nodes.set(fid, value - UNPROVEN);
  }

  gaveAttrs(fid: Fid): void {
    this.#set(fid, ATTRS);
  }

  gaveLoose(fid: Fid): void {
    this.#set(fid, LOOSE);
  }

  /** @returns whether loose attributes are out, and forgets that: the caller overtakes them. */
  takeLoose(fid: Fid): boolean {
    const value = this.#nodes.get(fid);
    if (value === undefined || (value & LOOSE) === 0) return false;
    this.#nodes.set(fid, value - LOOSE);
    return true;
  }

  gavePages(fid: Fid): void {
    this.#set(fid, PAGES);
  }

  hasAttrs(fid: Fid): boolean {
    return this.#has(fid, ATTRS);
  }

  hasPages(fid: Fid): boolean {
    return this.#has(fid, PAGES);
  }

  /** Forgets that the kernel has attributes; the caller invalidates them. */
  dropAttrs(fid: Fid): AttrsDropped {
    const value = this.#nodes.get(fid);
    if (value === undefined || (value & ATTRS) === 0) return 'none';
    this.#nodes.set(fid, value - ATTRS);
    return (value & UNPROVEN) === 0 ? 'held' : 'unproven';
  }

  /** Forgets that the kernel has pages. @returns whether it had. */
  dropPages(fid: Fid): boolean {
    const value = this.#nodes.get(fid);
    if (value === undefined || (value & PAGES) === 0) return false;
    this.#nodes.set(fid, value - PAGES);
    return true;
  }

  #has(fid: Fid, flag: number): boolean {
    const value = this.#nodes.get(fid);
    return value !== undefined && (value & flag) !== 0;
  }

  #set(fid: Fid, flag: number): void {
    const value = this.#nodes.get(fid) ?? 0;
    if ((value & flag) === 0) this.#nodes.set(fid, value + flag);
  }
}
