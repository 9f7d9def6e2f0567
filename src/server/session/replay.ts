/**
 * Handles a replay: an operation that an earlier server executed and answered before it stopped, and that was not
 * durable. The replay waits in the queue of the recovery window until its turn. If this server executed it already (the
 * client lost the connection in between, and sends everything again), it answers at once.
 *
 * If the server cannot execute a replay, or the replay does not succeed as it did the first time, this client and the
 * target do not agree on what happened: the server evicts this client alone.
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

/** Limits for one client: the server does not read from it while it has more in the queue. */
const QUEUED_MAX_BYTES = 8 << 20;
const QUEUED_MAX = 4096;

/** The services that answer clients. */
export interface ClientServices {
  /** All requests that a client may send. */
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
      evict(target, client, 'it replays, but this server does not recover');
    return;
  }
  if (transno <= client.lastTransno) {
    answerExecuted(target, link, frame);
    return;
  }
  // A server that stops in the middle of recovery answers nothing any more: clients ask the next one.
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
      // 0 if the client has left meanwhile.
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
  // If a client has no replays in the queue, nothing would resume it: do not pause it.
  const isTooMuch = client.kept.isFull && recovery.replays.queuedOf(client.uuid) > 0;
  if ((isFull(client, recovery.replays) || isTooMuch) && client.replayPaused === undefined) {
    client.replayPaused = link;
    link.pause();
  }
}

function isFull(client: ClientExport, replays: ReplayQueue, share = 1): boolean {
  return client.replayBytes > QUEUED_MAX_BYTES * share || replays.queuedOf(client.uuid) > QUEUED_MAX * share;
}

/** The connection is lost, and with it the replays that came through it and were not executed. */
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
  // Earlier servers gave out no transnos of this instance and later ones.
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
    // If the client sends this replay again, its transno alone will say that the server executed it.
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

/** The reply has no body: the client has had the answer, and only needs to know that the operation was executed. */
function answerExecuted(target: ServedTarget, link: Link, frame: Frame): void {
  const { opcode, xid, transno } = frame.header;
  const ackXidOrCommitted = target.store.lastCommitted;
  link.send({ kind: KIND.reply, opcode, xid, ackXidOrCommitted, transno }, encode(Empty, {}));
}
