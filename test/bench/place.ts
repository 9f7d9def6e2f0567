/** Where a row runs: a folder on a peer's mount, the same through a second mount, and what the row needs beside it. */

import { join, relative } from 'node:path';
import { memoryMib } from './memory.js';
import type { Sample, Side } from './row.js';
import type { Site } from './site.js';
import type { Sources } from './sources.js';

/** Fewer say nothing, not even that a row runs. */
const OPERATIONS_MIN = 20;

const HOLD_PATIENCE_MS = 600_000;

export interface Sizes {
  /** Of the file of the rows with bytes. */
  readonly fileMib: number;
  /** Of the operations that a row has, the part that is done: 1, or less to see only that rows run. */
  readonly part: number;
}

/** What the C program has printed. */
export interface Printed {
  readonly amount: number;
  readonly seconds: number;
  /** Microseconds. */
  readonly longestUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

export class Place {
  readonly folder: string;
  readonly sizes: Sizes;
  /** Files on the machine's own disk that programs begin with. */
  readonly sources: Sources;
  readonly #site: Site;
  readonly #tool: string;
  /** The same folder through each mount that a row has asked for. */
  readonly folders: string[];
  #lastFresh = 0;
  readonly #kept = new Map<string, string[]>();
  readonly #made = new Set<string>();

  constructor(site: Site, folder: string, tool: string, sizes: Sizes, sources: Sources) {
    this.#site = site;
    this.folder = folder;
    this.folders = [folder];
    this.#tool = tool;
    this.sizes = sizes;
    this.sources = sources;
  }

  /** So many operations of a row, as an argument. */
  count(operations: number): string {
    return String(Math.max(OPERATIONS_MIN, Math.round(operations * this.sizes.part)));
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** What is at this path of the folder, through another mount: 1 is the second one. */
  through(index: number, path: string): string {
    const folder = this.folders[index];
    if (folder === undefined) throw new Error(`the row did not ask for ${index + 1} mounts`);
    return join(folder, relative(this.folder, path));
  }

  /** A path that nothing has had yet. What is made there may be left for a later row: see takeKept(). */
  fresh(kind: string): string {
    const path = this.path(`${kind}-${++this.#lastFresh}`);
    this.#kept.set(kind, [...(this.#kept.get(kind) ?? []), path]);
    return path;
  }

  /** Something that an earlier run has left at a fresh path of this kind; from now on it is the caller's. */
  takeKept(kind: string): string | undefined {
    return this.#kept.get(kind)?.pop();
  }

  /** As takeKept(), and it stays for others. */
  lookKept(kind: string): string | undefined {
    return this.#kept.get(kind)?.at(-1);
  }

  /** Makes what several rows use, once. */
  async once(name: string, make: (path: string) => Promise<unknown>): Promise<string> {
    const path = this.path(name);
    if (!this.#made.has(name)) await make(path);
    this.#made.add(name);
    return path;
  }

  /** Runs a program as the application. @returns its stdout. */
  run(command: string, ...args: string[]): Promise<string> {
    return this.#site.application(command, args);
  }

  /** As run(), with a text on its stdin. */
  runWith(input: string, command: string, ...args: string[]): Promise<string> {
    return this.#site.application(command, args, { input });
  }

  /** How long a program takes, in seconds. */
  async time(operations: number, command: string, ...args: string[]): Promise<Sample> {
    const began = performance.now();
    await this.run(command, ...args);
    return { value: (performance.now() - began) / 1000, operations };
  }

  /** The C program (work/). */
  async tool(...args: string[]): Promise<Printed> {
    const text = await this.run(this.#tool, ...args);
    const [amount = 0, seconds = 1, longestUs = 0, p50Us = 0, p99Us = 0] = text.trim().split(' ').map(Number);
    return { amount, seconds, longestUs, p50Us, p99Us };
  }

  /** Runs the C program, and `use` while it keeps open what it has opened. */
  async hold<T>(use: () => T, ...args: string[]): Promise<T> {
    const child = this.#site.daemon('application', this.#tool, args);
    try {
      await child.line(/^\d+ /, HOLD_PATIENCE_MS);
      return use();
    } finally {
      child.process.stdin?.end();
      await child.exited;
    }
  }

  /** Memory of all processes of a side that is no part of any file, in MiB. */
  memoryMib(side: Side): number {
    return this.#site.sides[side].pids().reduce((sum, pid) => sum + memoryMib(pid, 'RssAnon'), 0);
  }

  /** Operations in a second, by the C program. */
  async rate(...args: string[]): Promise<Sample> {
    const { amount, seconds } = await this.tool(...args);
    return { value: amount / seconds, operations: amount };
  }

  /** MiB in a second. An operation is a MiB. */
  async mibRate(...args: string[]): Promise<Sample> {
    const { amount, seconds } = await this.tool(...args);
    const mib = amount / (1 << 20);
    return { value: mib / seconds, operations: mib };
  }
}
