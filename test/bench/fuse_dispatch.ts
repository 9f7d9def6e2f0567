/**
 * Requests a second through the dispatcher alone: LOOKUP and GETATTR in batches of 16 against a handler that does
 * nothing, then 4 KiB WRITE and READ. No kernel, no device: what TypeScript costs between two reads of /dev/fuse.
 *
 *   node dist/test/bench/fuse_dispatch.js [seconds] [--uncounted]
 */

import type { Attr } from '../../src/base/attr.js';
import type { Fid } from '../../src/base/ids.js';
import { OPCODE, opcodeName } from '../../src/fuse/constants.js';
import { FuseDispatcher } from '../../src/fuse/dispatcher.js';
import type { FuseHandlers } from '../../src/fuse/handlers.js';
import { MetricTable } from '../../src/runtime/metric_table.js';
import { OperationTimes } from '../../src/runtime/operation_times.js';
import { request } from '../fixtures/fuse_kernel_side.js';

const TIME = { sec: 1_700_000_000, nsec: 123_456_789 };
const ATTR: Attr = {
  fid: 18 as Fid,
  mode: 0o100644,
  nlink: 1,
  uid: 0,
  gid: 0,
  rdev: 0,
  sizeBytes: 12345,
  blocks: 32,
  atime: TIME,
  mtime: TIME,
  ctime: TIME,
  btime: TIME,
};
const clock = { nowMs: () => performance.now() };
/** As a mount does, unless --uncounted. */
const counted = !process.argv.includes('--uncounted');
const DATA = [Buffer.alloc(4096, 7)];

const handlers = {
  lookup: () => ({ attr: ATTR, generation: 0, entryValidSec: 60, attrValidSec: 60 }),
  getattr: () => ({ attr: ATTR, attrValidSec: 60 }),
  write: (_request: unknown, _nodeid: number, { data }: { readonly data: Uint8Array }) => data.length,
  read: () => DATA,
} as unknown as FuseHandlers;

function measure(name: string, requests: Buffer[], seconds: number): void {
  const slab = Buffer.concat(
    requests.map((bytes) => Buffer.concat([bytes, Buffer.alloc(((bytes.length + 7) & ~7) - bytes.length)])),
  );
  const dispatcher = new FuseDispatcher(
    handlers,
    { send: () => undefined, replySlab: Buffer.alloc(256 * 1024) },
    {
      timers: { after: () => ({ cancel: () => undefined }) },
      clock,
      times: counted
        ? new OperationTimes(
            { metrics: new MetricTable(), clock },
            { prefix: 'fuse', of: 'requests of the kernel', nameOf: opcodeName },
          )
        : undefined,
    },
  );
  const run = (forMs: number): number => {
    // Of the processor, not of the clock on the wall: other programs do not count.
    const start = process.cpuUsage();
    let done = 0;
    for (;;) {
      for (let round = 0; round < 256; round++) {
        dispatcher.batch(slab, slab.length);
        dispatcher.takeReplyBytes();
      }
      done += 256 * requests.length;
      const { user, system } = process.cpuUsage(start);
      const elapsedNs = (user + system) * 1000;
      if (elapsedNs > forMs * 1e6) return (done / elapsedNs) * 1e9;
    }
  };
  run(300);
  const perSecond = run(seconds * 1000);
  console.log(
    `${name.padEnd(24)} ${(perSecond / 1e6).toFixed(2)} M/s  ${(1e9 / perSecond).toFixed(0)} ns each`,
  );
}

const seconds = Number(process.argv[2] ?? 1);
const lookup = request({ opcode: OPCODE.LOOKUP, unique: 2n }, 'some_file_name.txt');
const getattr = request({ opcode: OPCODE.GETATTR, unique: 4n, nodeid: 18 }, 0, 0, 0n);
const write = request(
  { opcode: OPCODE.WRITE, unique: 6n, nodeid: 18 },
  1n,
  0n,
  4096,
  0,
  0n,
  2,
  0,
  Buffer.alloc(4096),
);
const read = request({ opcode: OPCODE.READ, unique: 8n, nodeid: 18 }, 1n, 0n, 4096, 0, 0n, 0, 0);
const repeat = (...requests: Buffer[]): Buffer[] => Array.from({ length: 8 }, () => requests).flat();
measure('LOOKUP+GETATTR', repeat(lookup, getattr), seconds);
measure('GETATTR, one a batch', [getattr], seconds);
measure('WRITE 4 KiB', repeat(write), seconds);
measure('READ 4 KiB', repeat(read), seconds);
