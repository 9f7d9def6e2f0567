/** The notices of a server or a mount: lines on stderr, and counters. */

import { fstatSync } from 'node:fs';
import { type Level, NOTICE_KINDS, Notices } from '../base/notices.js';
import type { Runtime } from '../runtime/ports.js';

/** Starts the notices of this process. */
export function startNotices(runtime: Runtime, level: Level): Notices {
  const notices = new Notices({
    nowMs: () => runtime.clock.nowMs(),
    time: () => new Date().toISOString(),
    write: (line) => void process.stderr.write(line),
    level,
    journal: isJournal(),
  });
  for (const kind of NOTICE_KINDS) {
    runtime.metrics.total('holdfast_notices_total', 'Notices since the start', () => notices.count(kind), {
      kind,
    });
  }
  notices.use();
  return notices;
}

/** Whether stderr is the stream that systemd names (systemd.exec(5), JOURNAL_STREAM): device and inode. */
function isJournal(): boolean {
  const stream = process.env.JOURNAL_STREAM;
  if (stream === undefined) return false;
  const { dev, ino } = fstatSync(2);
  return stream === `${dev}:${ino}`;
}
