/**
 * A replay comes: an operation that was executed and answered before the server stopped, and was not durable. It waits in
 * the queue of the recovery window until its turn. One that was executed already (the client lost the connection in
 * between, and sends everything again) is answered at once.
 *
 * A replay that cannot be executed, or does not succeed as it did the first time, means that this client and the target
 * do not agree on what happened: it is evicted, alone.
 */

import { errnoName } from '../../base/errno.js';
import type { Frame, Link } from '../../rpc/api.js';
import type { Service } from '../../rpc/service.js';
import { KIND } from '../../wire/header.js';
import { Empty } from '../../wire/operation.js';
import { operationName } from '../../wire/operations.js';
import { encode } from '../../wire/schema.js';
import type { Export } from '../export/export.js';
import { frameBytes, keptCopy } from '../export/kept_frames.js';
import type { RecoveryWindow } from '../lifecycle/recovery_window.js';
import type { ReplayQueue } from '../lifecycle/replay_queue.js';
import { Call } from '../target/call.js';
import { evict } from '../target/eviction.js';
import type { Target } from '../target/target.js';
import { versionChange } from '../target/version_gate.js';
import type { Host } from './host.js';

/** Of one client: it is not read from while it has more than this in the queue. */
const QUEUED_MAX_BYTES = 8 << 20;
const QUEUED_MAX = 4096;

/** What serves clients. */
export interface ClientServices {
  /** Everything a client may ask for. */
  readonly clients: Service<Call>;
  /** Opcodes that change something. */
  readonly modifying: ReadonlySet<number>;
}

export function replay(host: Host, services: ClientServices, link: Link, owner: Export, frame: Frame): void {
  const { target, recovery } = host;
  const { transno, opcode } = frame.header;
  if (target === undefined || recovery === undefined) {
    if (target !== undefined && host.state === 'active')
      evict(target, owner, 'it replays, and nothing is recovered');
    return;
  }
  if (transno <= owner.lastTransno) {
    answerExecuted(target, link, frame);
    return;
  }
  // Of a server that stops in the middle of recovery nothing is answered any more: the next one is asked.
  if (host.state !== 'recovering' && host.state !== 'active') return;
  const again = recovery.replays.joins(owner.uuid, transno, () => answerExecuted(target, link, frame));
  if (again) return;
  const refusal = refusalOf(host, services, owner, frame);
  if (refusal !== undefined) {
    evict(target, owner, refusal);
    return;
  }
  const bytes = frameBytes(frame);
  const kept = keptCopy(frame);
  owner.replayBytes += bytes;
  owner.kept.add(bytes);
  const inOrder = recovery.replays.add({
    client: owner.uuid,
    transno,
    run: (done) => {
      // Nothing, when the client has left meanwhile.
      const counted = Math.min(bytes, owner.replayBytes);
      owner.replayBytes -= counted;
      owner.kept.remove(counted);
      if (owner.replayPaused !== undefined && !isFull(owner, recovery.replays, 1 / 2)) {
        owner.replayPaused.resume();
        owner.replayPaused = undefined;
      }
      execute(target, services, link, owner, kept, done);
    },
  });
  if (!inOrder) {
    evict(target, owner, `its replay of ${operationName(opcode)} (transno ${transno}) is out of order`);
    return;
  }
  // One without replays in the queue would never be read again.
  const isTooMuch = owner.kept.isFull && recovery.replays.queuedOf(owner.uuid) > 0;
  if ((isFull(owner, recovery.replays) || isTooMuch) && owner.replayPaused === undefined) {
    owner.replayPaused = link;
    link.pause();
  }
}

function isFull(owner: Export, replays: ReplayQueue, share = 1): boolean {
  return owner.replayBytes > QUEUED_MAX_BYTES * share || replays.queuedOf(owner.uuid) > QUEUED_MAX * share;
}

/** The connection is lost, and with it what was sent through it and not executed. */
export function replaysLost(owner: Export, recovery: RecoveryWindow | undefined): void {
  owner.kept.remove(owner.replayBytes);
  owner.replayBytes = 0;
  owner.replayPaused = undefined;
  recovery?.replays.lost(owner.uuid);
}

function refusalOf(host: Host, services: ClientServices, owner: Export, frame: Frame): string | undefined {
  const { transno, opcode } = frame.header;
  if (!services.modifying.has(opcode)) return `it replays ${operationName(opcode)}, which changes nothing`;
  if (!owner.recovering || host.recovery?.isOpen !== true) return 'it replays after its recovery was over';
  // Numbers of this instance and of later ones have not been given out.
  if (transno >= (host.target?.store.firstTransno ?? 0))
    return `it replays transno ${transno}, which is of no earlier server`;
  return versionChange(host.recovery.previousVersion, host.settings.softwareVersion);
}

function execute(
  target: Target,
  services: ClientServices,
  link: Link,
  owner: Export,
  frame: Frame,
  done: () => void,
): void {
  if (owner.goneReason !== undefined || target.stopped) {
    done();
    return;
  }
  const call = new Call(target, owner, frame, link, true);
  call.releaseAfterReply(() => {
    const { opcode, transno } = frame.header;
    const { errno = 0 } = call;
    // A later replay of the same client counts as executed by its transno alone.
    if (errno === 0 && transno > owner.lastTransno) owner.lastTransno = transno;
    if (errno !== 0 && !target.stopped) {
      evict(
        target,
        owner,
        `its replay of ${operationName(opcode)} (transno ${transno}) failed: ${errnoName(errno)}`,
      );
    }
    done();
  });
  call.during(() => services.clients.dispatch(call, link, frame, call));
}

/** Its body is empty: the client has had the answer, and wants to know nothing but that it was executed. */
function answerExecuted(target: Target, link: Link, frame: Frame): void {
  const { opcode, xid, transno } = frame.header;
  const ackXidOrCommitted = target.store.lastCommitted;
  link.send({ kind: KIND.reply, opcode, xid, ackXidOrCommitted, transno }, encode(Empty, {}));
}
