/**
 * What the live pages show, as it goes to the browser. The browser has these types too, so this file imports nothing. Every text is made
 * for people already; the browser takes it as text, never as HTML.
 */

/** How good a state is: it chooses the colour and the sign, and the text beside it says the same. */
export type Tone = 'good' | 'busy' | 'bad' | 'idle';

/** What one event carries. */
export interface PageEvent<V> {
  /** Of the files of the page (page_files.ts). */
  readonly files: string;
  readonly view: V;
}

/** What both pages have at their top. */
export interface Head {
  readonly title: string;
  readonly state: string;
  readonly tone: Tone;
  /** What happens, in one sentence. */
  readonly headline: string;
  /** The same without what changes with each second: screen readers say it when it changes. */
  readonly announcement: string;
  readonly progress: Progress | undefined;
}

/** Something that is under way: a drain, a recovery, an upgrade of a fleet. */
export interface Progress {
  readonly text: string;
  readonly done: number;
  readonly of: number;
}

/** One second of the charts. */
export interface Point {
  /** Milliseconds since 1970, when the second was over. */
  readonly atMs: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Of files, a second. */
  readonly readBytes: number;
  readonly writeBytes: number;
}

/** A row of a table. The key stays with what the row is about, wherever the row is. */
export interface Row {
  readonly key: string;
  readonly cells: readonly string[];
}

export interface ClientRow {
  readonly key: string;
  readonly name: string;
  readonly version: string;
  readonly state: string;
  readonly tone: Tone;
  readonly dirty: string;
  readonly opens: number;
  readonly locks: number;
  /** What it waits for, or what is waited for of it. */
  readonly waits: string;
}

export interface ServerPageView extends Head {
  readonly facts: readonly (readonly [label: string, value: string])[];
  /** Undefined: there is no target. */
  readonly space: { readonly text: string; readonly share: number } | undefined;
  readonly clients: readonly ClientRow[];
  readonly clientsText: string;
  readonly operations: readonly Row[];
  readonly evictions: readonly Row[];
  readonly points: readonly Point[];
}

export interface NodeRow {
  readonly key: string;
  /** server, client. */
  readonly kind: string;
  readonly name: string;
  readonly host: string;
  /** Undefined: it is not known. */
  readonly version: string | undefined;
  readonly state: string;
  readonly tone: Tone;
}

export interface FleetGroup {
  readonly name: string;
  /** "after single"; empty: it goes first. */
  readonly text: string;
  readonly nodes: readonly NodeRow[];
}

/** How many nodes have a version. */
export interface VersionShare {
  readonly version: string;
  readonly count: number;
  readonly share: number;
  /** It is the version that the upgrade brings. */
  readonly isNew: boolean;
}

export interface FleetStep {
  readonly key: string;
  readonly group: string;
  readonly text: string;
  readonly is: 'done' | 'running' | 'to come' | 'not needed';
  /** Time of day; empty: it has not begun. */
  readonly began: string;
  readonly took: string;
  /** Where it lies in the time of the upgrade, as parts of 1. Undefined: it has not begun. */
  readonly bar: { readonly from: number; readonly to: number } | undefined;
}

export interface FleetPause {
  readonly key: string;
  readonly client: string;
  readonly why: string;
  readonly took: string;
  /** Of the longest one. */
  readonly share: number;
}

export interface FleetPageView extends Head {
  readonly versions: readonly VersionShare[];
  readonly groups: readonly FleetGroup[];
  readonly steps: readonly FleetStep[];
  readonly stepsText: string;
  readonly pauses: readonly FleetPause[];
  readonly pausesText: string;
  /** When the hosts were looked at. */
  readonly seenText: string;
}
