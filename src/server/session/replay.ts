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
import type { ClientExport } from '../export/export.js';
import { frameBytes, keptCopy } from '../export/kept_frames.js';
import type { RecoveryWindow } from '../lifecycle/recovery_window.js';
import type { ReplayQueue } from '../lifecycle/replay_queue.js';
import { evict } from '../target/eviction.js';
import { ServedCall } from '../target/served_call.js';
import type { ServedTarget } from '../target/served_target.js';
import { versionChange } from '../target/version_gate.js';
import type { ServerView } from './server_view.js';

/** Of one client: it is not read from while it has more than this in the queue. */
const QUEUED_MAX_BYTES = 8 << 20;
const QUEUED_MAX = 4096;

/** What serves clients. */
export interface ClientServices {
  /** Everything a client may ask for. */
  readonly clients: Service<ServedCall>;
  /** Opcodes that change something. */
  readonly modifying: ReadonlySet<number>;
}

export function replay(
  server: ServerView,
  services: ClientServices,
  link: Link,
  client: ClientExport,
  frame: Frame,
): void {
  const { target, recovery } = server;
  const { transno, opcode } = frame.header;
  if (target === undefined || recovery === undefined) {
    if (target !== undefined && server.state === 'active')
      evict(target, client, 'it replays, and nothing is recovered');
    return;
  }
  if (transno <= client.lastTransno) {
    answerExecuted(target, link, frame);
    return;
  }
  // Of a server that stops in the middle of recovery nothing is answered any more: the next one is asked.
  if (server.state !== 'recovering' && server.state !== 'active') return;
  const again = recovery.replays.joins(client.uuid, transno, () => answerExecuted(target, link, frame));
  if (again) return;
  const refusal = refusalOf(server, services, client, frame);
  if (refusal !== undefined) {
    evict(target, client, refusal);
    return;
  }
  const bytes = frameBytes(frame);
  const kept = keptCopy(frame);
  client.replayBytes += bytes;
  client.kept.add(bytes);
  const inOrder = recovery.replays.add({
    client: client.uuid,
    transno,
    run: (done) => {
      // Nothing, when the client has left meanwhile.
      const counted = Math.min(bytes, client.replayBytes);
      client.replayBytes -= counted;
      client.kept.remove(counted);
      if (client.replayPaused !== undefined && !isFull(client, recovery.replays, 1 / 2)) {
        client.replayPaused.resume();
        client.replayPaused = undefined;
      }
      execute(target, services, link, client, kept, done);
    },
  });
  if (!inOrder) {
    evict(target, client, `its replay of ${operationName(opcode)} (transno ${transno}) is out of order`);
    return;
  }
  // One without replays in the queue would never be read again.
  const isTooMuch = client.kept.isFull && recovery.replays.queuedOf(client.uuid) > 0;
  if ((isFull(client, recovery.replays) || isTooMuch) && client.replayPaused === undefined) {
    client.replayPaused = link;
    link.pause();
  }
}

function isFull(client: ClientExport, replays: ReplayQueue, share = 1): boolean {
  return client.replayBytes > QUEUED_MAX_BYTES * share || replays.queuedOf(client.uuid) > QUEUED_MAX * share;
}

/** The connection is lost, and with it what was sent through it and not executed. */
export function replaysLost(client: ClientExport, recovery: RecoveryWindow | undefined): void {
  client.kept.remove(client.replayBytes);
  client.replayBytes = 0;
  client.replayPaused = undefined;
  recovery?.replays.lost(client.uuid);
}

function refusalOf(
  server: ServerView,
  services: ClientServices,
  client: ClientExport,
  frame: Frame,
): string | undefined {
  const { transno, opcode } = frame.header;
  if (!services.modifying.has(opcode)) return `it replays ${operationName(opcode)}, which changes nothing`;
  if (!client.recovering || server.recovery?.isOpen !== true) return 'it replays after its recovery was over';
  // Numbers of this instance and of later ones have not been given out.
  if (transno >= (server.target?.store.firstTransno ?? 0))
    return `it replays transno ${transno}, which is of no earlier server`;
  return versionChange(server.recovery.previousVersion, server.settings.softwareVersion);
}

function execute(
  target: ServedTarget,
  services: ClientServices,
  link: Link,
  client: ClientExport,
  frame: Frame,
  done: () => void,
): void {
  if (client.life.isOver) {
    done();
    return;
  }
  const call = new ServedCall(target, client, frame, link, true);
  call.releaseAfterReply(() => {
    const { opcode, transno } = frame.header;
    const { errno = 0 } = call;
    // A later replay of the same client counts as executed by its transno alone.
    if (errno === 0 && transno > client.lastTransno) client.lastTransno = transno;
    if (errno !== 0 && !target.life.isOver) {
      evict(
        target,
        client,
        `its replay of ${operationName(opcode)} (transno ${transno}) failed: ${errnoName(errno)}`,
      );
    }
    done();
  });
  call.during(() => services.clients.dispatch(call, link, frame, call));
}

/** Its body is empty: the client has had the answer, and wants to know nothing but that it was executed. */
function answerExecuted(target: ServedTarget, link: Link, frame: Frame): void {
  const { opcode, xid, transno } = frame.header;
  const ackXidOrCommitted = target.store.lastCommitted;
  link.send({ kind: KIND.reply, opcode, xid, ackXidOrCommitted, transno }, encode(Empty, {}));
}
