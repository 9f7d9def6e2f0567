/**
 * One page of the database: checks that its fields are consistent. It checks every field before it follows it, so
 * nothing here reads beyond the page, whatever the page holds. Layout: meta_probe.ts; a node is u32 length of the value
 * (or page below), u16 flags (or more of that page number), u16 length of the key, key, value.
 */

import { getU64 } from '../format/records.js';
import { LMDB_PAGE_BYTES, NODE_HEADER, PAGE_HEADER } from '../meta/meta_probe.js';

const MAX_KEY_BYTES = 1978;

/** The message says what is wrong with the page, as the end of a line. */
export class DamagedPage extends Error {}

export type Compare = (a: Buffer, b: Buffer) => number;

/** Keys of a page are at or above `from` and below `below`; undefined is no bound. */
export interface Bounds {
  readonly from: Buffer | undefined;
  readonly below: Buffer | undefined;
}

/** Bytes of a page. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

export function checkHeader(page: Buffer, number: number, kind: number, transaction: number): void {
  if (getU64(page, 0) !== number) throw new DamagedPage('it is not the page it should be');
  if (page.readUInt16LE(18) !== kind) throw new DamagedPage('it is of another kind than it should be');
  if (getU64(page, 8) > transaction) throw new DamagedPage('it is younger than the database');
  const lower = page.readUInt16LE(20);
  const upper = page.readUInt16LE(22);
  if (lower % 2 !== 0 || lower > upper || PAGE_HEADER + upper > LMDB_PAGE_BYTES) {
    throw new DamagedPage('its free space does not lie within it');
  }
}

/** Offsets at which the nodes of a page begin, in key order. */
export function nodeOffsets(page: Buffer): number[] {
  const lower = page.readUInt16LE(20);
  const upper = page.readUInt16LE(22);
  const nodes: number[] = [];
  for (let at = 0; at < lower; at += 2) {
    const node = page.readUInt16LE(PAGE_HEADER + at);
    if (node < upper || PAGE_HEADER + node + NODE_HEADER > LMDB_PAGE_BYTES) {
      throw new DamagedPage('a record lies outside of it');
    }
    nodes.push(PAGE_HEADER + node);
  }
  if (nodes.length === 0) throw new DamagedPage('it is empty');
  return nodes;
}

export function keyAt(page: Buffer, node: number): Buffer {
  const length = page.readUInt16LE(node + 6);
  const at = node + NODE_HEADER;
  if (length > MAX_KEY_BYTES || at + length > LMDB_PAGE_BYTES) {
    throw new DamagedPage('a key reaches beyond the page');
  }
  return page.subarray(at, at + length);
}

export function checkOrder(
  key: Buffer,
  previous: Buffer | undefined,
  { from, below }: Bounds,
  compare: Compare,
): void {
  const inOrder =
    key.length > 0 &&
    (previous === undefined || compare(previous, key) < 0) &&
    (from === undefined || compare(from, key) <= 0) &&
    (below === undefined || compare(key, below) < 0);
  if (!inOrder) throw new DamagedPage('its keys are not in order');
}

/** The free list's keys are transaction numbers in the host's byte order. */
export function compareTransactions(a: Buffer, b: Buffer): number {
  if (a.length !== 8 || b.length !== 8)
    throw new DamagedPage('a key of the free list is no transaction number');
  return getU64(a, 0) - getU64(b, 0);
}

/** lmdb keeps the nodes of a page side by side, each at an even place, up to the page's end. */
export function checkPacked(page: Buffer, spans: readonly Span[]): void {
  let at = PAGE_HEADER + page.readUInt16LE(22);
  for (const { start, end } of [...spans].sort((a, b) => a.start - b.start)) {
    if (start !== at) throw new DamagedPage('its records do not lie side by side');
    at = end + (end % 2);
  }
  if (at !== LMDB_PAGE_BYTES) throw new DamagedPage('its records do not lie side by side');
}
