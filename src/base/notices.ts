/**
 * Events that a user must learn of without DEBUG: one line for each, on stderr or in the log of a mount.
 *
 * Client and server pass their notices to a callback in their options (onState), so that many nodes fit in one process.
 * Storage, sockets and devices have no such option and call notice(). Its lines go to the Notices object that the
 * process installed with use(), or nowhere if it installed none, as in the simulator and in unit tests.
 *
 * Each kind is limited to BURST lines in a period; its first line after the period says how many were left out. All
 * events are counted.
 */

import { printable } from './printable.js';

export type Level = 'error' | 'warning' | 'info';
export const LEVELS: readonly Level[] = ['error', 'warning', 'info'];

const KINDS = {
  'connection-lost': 'warning',
  'still-waiting': 'warning',
  back: 'info',
  drained: 'info',
  evicted: 'error',
  refused: 'warning',
  throttled: 'warning',
  'lock-lost': 'error',
  'data-lost': 'error',
  'checksum-wrong': 'error',
  'device-failed': 'error',
  'out-of-descriptors': 'error',
  'mount-aborted': 'error',
  'client-died': 'error',
  slow: 'warning',
} as const satisfies Record<string, Level>;

export type NoticeKind = keyof typeof KINDS;
export const NOTICE_KINDS = Object.keys(KINDS) as NoticeKind[];

/** Priorities of syslog; the journal reads them from the beginning of a line. */
const PRIORITY: Readonly<Record<Level, number>> = { error: 3, warning: 4, info: 6 };

const BURST = 5;
const PERIOD_MS = 10_000;

export interface NoticesOptions {
  /** Monotonic milliseconds. */
  readonly nowMs: () => number;
  /** Time of day as text, for the beginning of a line. */
  readonly time: () => string;
  /** Writes one line, which ends with its line break. */
  readonly write: (line: string) => void;
  /** The least important level that is written. */
  readonly level: Level;
  /** The systemd journal reads the lines: it expects a priority and adds its own time. */
  readonly journal: boolean;
}

interface Period {
  beganMs: number;
  lines: number;
  leftOut: number;
}

export class Notices {
  readonly #options: NoticesOptions;
  readonly #counts = new Map<NoticeKind, number>();
  readonly #periods = new Map<NoticeKind, Period>();

  constructor(options: NoticesOptions) {
    this.#options = options;
  }

  /** Installs this object: it gets the events of notice() from now on. @returns a function that undoes this. */
  use(): () => void {
    const before = sink.say;
    sink.say = (kind, text) => this.say(kind, text);
    return () => {
      sink.say = before;
    };
  }

  count(kind: NoticeKind): number {
    return this.#counts.get(kind) ?? 0;
  }

  /** The kinds that have happened, and how often each has. */
  counts(): { readonly kind: NoticeKind; readonly count: number }[] {
    return [...this.#counts].map(([kind, count]) => ({ kind, count }));
  }

  say(kind: NoticeKind, text: string): void {
    this.#counts.set(kind, this.count(kind) + 1);
    const leftOut = this.#admit(kind);
    if (leftOut === undefined) return;
    const more = leftOut > 0 ? ` (${leftOut} more of this kind were not shown)` : '';
    this.state(`${text}${more}`, KINDS[kind]);
  }

  /** Writes a line of no kind, which is neither limited nor counted. */
  state(text: string, level: Level = 'info'): void {
    const { journal, time, write } = this.#options;
    if (LEVELS.indexOf(level) > LEVELS.indexOf(this.#options.level)) return;
    const begin = journal ? `<${PRIORITY[level]}>` : `${time()} `;
    // A line break inside a name would begin a line without time and priority.
    write(`${begin}holdfast: ${printable(text)}\n`);
  }

  /** @returns the number of lines left out before this one; undefined if this one is left out too. */
  #admit(kind: NoticeKind): number | undefined {
    const nowMs = this.#options.nowMs();
    const period = this.#periods.get(kind);
    if (period === undefined || nowMs - period.beganMs >= PERIOD_MS) {
      this.#periods.set(kind, { beganMs: nowMs, lines: 1, leftOut: 0 });
      return period?.leftOut ?? 0;
    }
    if (period.lines >= BURST) {
      period.leftOut += 1;
      return undefined;
    }
    period.lines += 1;
    return 0;
  }
}

/** One for the whole process, like its stderr. */
const sink: { say: (kind: NoticeKind, text: string) => void } = { say: () => undefined };

export function notice(kind: NoticeKind, text: string): void {
  sink.say(kind, text);
}
