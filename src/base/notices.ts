/**
 * What a user must learn without DEBUG: one line for each event of a kind, on stderr or in the log of a mount.
 *
 * Client and server hand their notices to their options (onState), so that many nodes fit in one process. Storage, sockets
 * and devices, which no such option reaches, call notice(): it goes where the process says (Notices.use), as the output of
 * the debug package does, and nowhere in a process that says nothing. A simulator and a unit test say nothing.
 *
 * A kind that repeats is limited to BURST lines in a period; its first line after that says how many were left out. All
 * are counted.
 */

export type Level = 'error' | 'warning' | 'info';
export const LEVELS: readonly Level[] = ['error', 'warning', 'info'];

const KINDS = {
  'connection-lost': 'warning',
  'still-waiting': 'warning',
  back: 'info',
  drained: 'info',
  evicted: 'error',
  'lock-lost': 'error',
  'data-lost': 'error',
  'checksum-wrong': 'error',
  'device-failed': 'error',
  'out-of-descriptors': 'error',
  'mount-aborted': 'error',
} as const satisfies Record<string, Level>;

export type NoticeKind = keyof typeof KINDS;
export const NOTICE_KINDS = Object.keys(KINDS) as NoticeKind[];

/** Priorities of syslog, which a journal reads from the beginning of a line. */
const PRIORITY: Readonly<Record<Level, number>> = { error: 3, warning: 4, info: 6 };

const BURST = 5;
const PERIOD_MS = 10_000;

export interface NoticesOptions {
  /** Monotonic milliseconds. */
  readonly nowMs: () => number;
  /** Time of day as text, for the line. */
  readonly time: () => string;
  /** Takes one line with its end. */
  readonly write: (line: string) => void;
  /** The least important level that is written. */
  readonly level: Level;
  /** A journal reads the lines: it wants a priority and has its own time. */
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

  /** Takes what notice() is called with from now on. @returns what ends that. */
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

  /** Kinds that have happened, and how often. */
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

  /** A line that is of no kind: it is neither limited nor counted. */
  state(text: string, level: Level = 'info'): void {
    const { journal, time, write } = this.#options;
    if (LEVELS.indexOf(level) > LEVELS.indexOf(this.#options.level)) return;
    const begin = journal ? `<${PRIORITY[level]}>` : `${time()} `;
    // A line break in a name would begin a line without time and priority.
    write(`${begin}holdfast: ${text.replaceAll(/[\r\n]+/g, ' ')}\n`);
  }

  /** @returns how many were left out before this one; undefined if this one is left out too. */
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

/** Of the process, as its stderr is. */
const sink: { say: (kind: NoticeKind, text: string) => void } = { say: () => undefined };

export function notice(kind: NoticeKind, text: string): void {
  sink.say(kind, text);
}
