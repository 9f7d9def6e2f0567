/**
 * How many connections the limit of file descriptors allows. Node raises the soft limit to the hard one when it starts.
 * Some are kept for what is not a connection: devices, the metadata store, logs, the files of a moment.
 */

import { readFileSync } from 'node:fs';

const KEPT_DESCRIPTORS = 128;

/** @returns at least 32; infinite when the system does not say. */
export function connectionsMax(limits = readLimits()): number {
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  if (soft === undefined) return Number.POSITIVE_INFINITY;
  return Math.max(32, Number(soft) - KEPT_DESCRIPTORS);
}

function readLimits(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return '';
  }
}
