import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ERRNO, FsError } from '../../../src/base/errno.js';
import { OPCODE, opcodeName } from '../../../src/fuse/constants.js';
import { FuseDispatcher } from '../../../src/fuse/dispatcher.js';
import type { FuseHandlers } from '../../../src/fuse/handlers.js';
import { MetricTable } from '../../../src/runtime/metric_table.js';
import { OperationTimes } from '../../../src/runtime/operation_times.js';
import { request } from '../../fixtures/fuse_kernel_side.js';

interface Counted {
  readonly count: number;
  readonly seconds: number;
}

function world(handlers: Partial<FuseHandlers>) {
  const clock = { ms: 1000, nowMs: () => clock.ms };
  const table = new MetricTable();
  const times = new OperationTimes(
    { metrics: table, clock },
    { prefix: 'fuse', of: 'requests', nameOf: opcodeName },
  );
  const dispatcher = new FuseDispatcher(
    handlers as FuseHandlers,
    { send: () => undefined, replySlab: Buffer.alloc(64 << 10) },
    { timers: { after: () => ({ cancel: () => undefined }) }, clock, times },
  );
  const sampled = (name: string) => table.samples().find((family) => family.name === name)?.samples ?? [];
  const counted = (operation: string): Counted | undefined => {
    const found = sampled('holdfast_fuse_seconds').find(({ labels }) => labels.operation === operation);
    if (found === undefined || !('counts' in found)) return undefined;
    return { count: found.counts.reduce((sum, one) => sum + one, 0), seconds: found.sum };
  };
  const errors = (): unknown[] =>
    sampled('holdfast_fuse_errors_total').map((one) => ({
      ...one.labels,
      value: 'value' in one && one.value,
    }));
  const send = (opcode: number, unique: bigint): void => {
    const bytes = request({ opcode, unique, nodeid: 1 });
    dispatcher.batch(bytes, bytes.length);
  };
  return { clock, counted, errors, send };
}

test('every answer is counted, whether its batch was timed or not', () => {
  const { counted, send, clock } = world({
    readlink: () => {
      clock.ms += 2;
      return Buffer.from('x');
    },
  });
  for (let at = 0; at < 21; at++) {
    send(OPCODE.READLINK, BigInt(2 * at + 2));
    assert.equal(counted('READLINK')?.count, at + 1);
  }
  const { seconds = 0 } = counted('READLINK') ?? {};
  assert.ok(Math.abs(seconds - 21 * 0.002) < 1e-9, `${seconds} s`);
});

test('a request that waits has its own time, and its error is counted by its code', async () => {
  let fail: (error: Error) => void = () => undefined;
  const { counted, errors, send, clock } = world({
    readlink: () =>
      new Promise((_, reject) => {
        fail = reject;
      }),
    statfs: () => {
      throw new FsError('ENOENT', 'gone');
    },
  });
  send(OPCODE.READLINK, 2n);
  assert.equal(counted('READLINK'), undefined);
  clock.ms += 1500;
  fail(new FsError('EIO', 'lost'));
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(counted('READLINK'), { count: 1, seconds: 1.5 });
  send(OPCODE.STATFS, 4n);
  assert.deepEqual(errors(), [
    { operation: 'READLINK', code: 'EIO', value: 1 },
    { operation: 'STATFS', code: 'ENOENT', value: 1 },
  ]);
  assert.equal(ERRNO.EIO, 5);
});

test('what is no operation is counted as an error and in no histogram', () => {
  const { counted, errors, send } = world({});
  send(4096, 2n);
  assert.equal(counted('4096'), undefined);
  assert.equal(errors().length, 1);
});
