/**
 * What a client process does while its mount is there: it answers its control socket, hears signals, hands the mount over, and
 * unmounts.
 */

import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import type { Level, Notices } from '../base/notices.js';
import { Deferred } from '../base/wait.js';
import type { FsClient } from '../client/api.js';
import type { MetricTable } from '../runtime/metric_table.js';
import type { Runtime } from '../runtime/ports.js';
import { type ControlRequest, serveControl } from './control.js';
import { EndedBySignal, type EndSignals } from './end_signals.js';
import { CliError, describeFailure } from './failure.js';
import { formatBytes } from './format.js';
import { handOver, type Serving, type Successor } from './hand_over.js';
import { render } from './metrics_http.js';
import { announceSuccessor } from './service_manager.js';
import { goOnArguments } from './takeover_request.js';
import { unmountWhenFree } from './unmount_when_free.js';

const log = logger('cli:mount');

/** How long an unmount by force, and a mount that failed, wait for a server that may still answer. */
const FORCED_FLUSH_MS = 2000;
/** An unmount that takes longer than this says what it waits for. */
const SAID_AFTER_MS = 2000;
/** How often `holdfast umount` learns how many bytes are left. */
const PROGRESS_MS = 200;

/** How this mount was asked for, as words of the command line. */
export interface Launch {
  readonly source: string;
  readonly options: string;
  readonly level: Level;
}

export interface Mounted extends Serving {
  readonly mountpoint: string;
  readonly launch: Launch;
  readonly notices: Notices;
  readonly signals: EndSignals;
  readonly table: MetricTable;
}

/** The process ends before its client: the user unmounted by force, or there was no mount, and the server is away. */
export class GivenUp extends CliError {
  override name = 'GivenUp';
}

export interface RunningMount {
  /**
   * Resolves when the mount is gone and everything is on the server, or when another process has taken the mount over: then this
   * one has to end without touching anything. Rejects if not everything is on the server.
   */
  readonly ended: Promise<'unmounted' | 'handed over'>;
}

/** Without a mount the client has nothing to write: a server that is away must not keep its process. */
export async function leaveAfter(runtime: Runtime, thrown: unknown, left: Promise<void>): Promise<void> {
  const settled = left.catch((late: unknown) => log('leaving: %O', late));
  if (await settledWithin(runtime, settled, FORCED_FLUSH_MS)) return;
  if (thrown instanceof EndedBySignal) throw new GivenUp(thrown.message);
  const { line, exitCode } = describeFailure(thrown);
  throw new GivenUp(line, exitCode);
}

/** Serves the mount and its control socket until the mount ends, or another process serves it. */
export async function serveMount(mounted: Mounted): Promise<RunningMount> {
  const { runtime, client, kernel, mountpoint, logPath, notices, signals, keeper } = mounted;
  const flushed = kernel.closed.then(async () => {
    // It never fails.
    const forgotten = keeper?.forget();
    await client.unmount();
    await forgotten;
  });
  // The code below and the control socket await it. Until then a failure must not become an unhandled rejection.
  flushed.catch((thrown: unknown) => log('unmount: %O', thrown));
  let giveUp: (why: GivenUp) => void = () => undefined;
  const givenUp = new Promise<never>((_, reject) => {
    giveUp = reject;
  });
  givenUp.catch(() => undefined);
  const forced = async (): Promise<number | undefined> => {
    if (await settledWithin(runtime, flushed, FORCED_FLUSH_MS)) return undefined;
    const lostBytes = dirtyBytes(client);
    const text = `unmounted by force; ${formatBytes(lostBytes)} were not written to the server`;
    // Lets the answer leave first.
    setImmediate(() => giveUp(new GivenUp(text)));
    return lostBytes;
  };
  signals.mounted(
    unmountWhenFree({
      kernel,
      timers: runtime.timers,
      writeBack: () => client.writeBack(),
      says: (line) => process.stderr.write(`holdfast: ${line}\n`),
    }),
  );
  let handingOver = false;
  let hasSuccessor = false;
  const handedOver = new Deferred<'handed over'>();
  const control = await serveControl(mountpoint, async (request, progress) => {
    if (request.command === 'status') {
      const { driver, handover } = kernel;
      const own = { mountpoint, pid: process.pid, log: logPath, driver, takeover: handover !== undefined };
      return { ...client.status(), ...own, notices: notices.counts() };
    }
    if (request.command === 'holdings') return client.holdings(request.what, request.limit);
    if (request.command === 'metrics') return { text: await render(mounted.table) };
    if (handingOver) throw new FsError('EBUSY', 'another process takes this mount over just now');
    if (request.command === 'takeover') {
      handingOver = true;
      try {
        const done = await handOver(mounted, successorOf(mounted, request));
        hasSuccessor = true;
        await announceSuccessor(done.pid);
        // Lets the answer leave first.
        setImmediate(() => handedOver.resolve('handed over'));
        return done;
      } finally {
        handingOver = false;
      }
    }
    await kernel.unmount(request.force ? 'force' : 'plain');
    const stop = reportEvery(runtime, () => progress({ dirtyBytes: dirtyBytes(client) }));
    try {
      if (request.force) return { lostBytes: await forced() };
      await flushed;
      return {};
    } finally {
      stop();
    }
  }).catch(async (thrown: unknown) => {
    // Without a control socket nobody could end the mount: takes it away, so that the process ends.
    await kernel.unmount('force');
    await leaveAfter(runtime, thrown, flushed);
    throw thrown;
  });
  void kernel.closed.then(() => sayWhatIsWaitedFor(runtime, client, flushed));
  const unmounted = flushed.then(() => 'unmounted' as const);
  const ended = Promise.race([unmounted, givenUp, handedOver.promise]).finally(() =>
    control.close({ hasSuccessor }),
  );
  return { ended };
}

/** If the process stays after its mount is gone, it says why. */
async function sayWhatIsWaitedFor(runtime: Runtime, client: FsClient, flushed: Promise<void>): Promise<void> {
  // mount() reports a failure.
  const settled = flushed.catch(() => undefined);
  if (await settledWithin(runtime, settled, SAID_AFTER_MS)) return;
  const bytes = dirtyBytes(client);
  const what = bytes > 0 ? `, ${formatBytes(bytes)} are not written yet` : '';
  process.stderr.write(`holdfast: unmounted; waits for the server${what}\n`);
}

/** @returns whether the work ended in time. @throws if the work fails in time. */
function settledWithin(runtime: Runtime, work: Promise<void>, ms: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const timer = runtime.timers.after(ms, () => resolve(false));
    work.then(() => resolve(true), reject).finally(() => timer.cancel());
  });
}

function dirtyBytes(client: FsClient): number {
  return client.status().targets.reduce((sum, target) => sum + target.dirtyBytes, 0);
}

function reportEvery(runtime: Runtime, report: () => void): () => void {
  let timer = runtime.timers.after(PROGRESS_MS, tick, true);
  function tick(): void {
    report();
    timer = runtime.timers.after(PROGRESS_MS, tick, true);
  }
  return () => timer.cancel();
}

function successorOf(
  { mountpoint, launch }: Mounted,
  { program, options, patienceMs }: Extract<ControlRequest, { readonly command: 'takeover' }>,
): Successor {
  const asked = { ...launch, options: options ?? launch.options };
  const [command = process.execPath, ...args] = program;
  return {
    program: command,
    args: [...args, ...goOnArguments('--take-over', asked, mountpoint)],
    patienceMs,
  };
}
