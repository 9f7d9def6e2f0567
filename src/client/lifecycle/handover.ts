/**
 * Handing this client over to another process, which goes on with the same session (docs/TAKEOVER.md).
 *
 * leave() drains, so that the state is small and exact; then the connection ends without a goodbye. From there on exactly one
 * process is this client: the next one, as soon as it connects, or this one again after stay().
 *
 * stay() may come at any time, also when the other process has connected already: the numbers of connections and calls skip what
 * that process may have used. It may have received the grant of a lock that waits here, so those locks are asked for anew.
 */

import { FsError } from '../../base/errno.js';
import type { Fid, Xid } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { ClientStateMessage } from '../../wire/mount_state.js';
import type { OrphanedClient } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import type { ClientIdentity } from '../session/identity.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import type { Drain } from './drain.js';
import type { Import } from './import.js';
import { enqueueAgain } from './replay.js';

const log = logger('client:handover');

/** More than a process makes before it is in charge: it gives up after a few connections. */
const CONNECTIONS_SKIPPED = 10_000;
const XIDS_SKIPPED = 1_000_000;

export interface HandoverParts {
  readonly context: ClientContext;
  readonly target: TargetSession;
  readonly connection: Import;
  readonly drain: Drain;
  readonly identity: ClientIdentity;
  /** Inodes without a name that the client holds for its kernel. */
  readonly held: { all(): readonly Fid[] };
}

export class Handover {
  readonly #parts: HandoverParts;
  #hasLeft = false;

  constructor(parts: HandoverParts) {
    this.#parts = parts;
  }

  /**
   * Everything is on the server, and the connection is gone. Calls wait at the gate.
   * @param patience its abort ends the attempt. After a failure the caller calls stay().
   * @throws FsError EAGAIN while the server is away or shuts down; the reason of `patience`.
   */
  async leave(patience: AbortSignal): Promise<void> {
    await this.#parts.drain.leave(patience);
  }

  orphan(): OrphanedClient {
    const { context, connection, identity } = this.#parts;
    const { uuid, secret } = identity;
    return { uuid, secret, connCount: connection.connCount, firstFh: context.handles.firstFh };
  }

  /** The session as it is now. Hangs up: another process may connect. */
  state(): ClientStateMessage {
    const { context, target, connection, identity, held } = this.#parts;
    const { targetUuid } = target;
    if (targetUuid === undefined) throw new FsError('EAGAIN', 'no server has answered yet');
    connection.suspend();
    this.#hasLeft = true;
    return {
      uuid: identity.uuid,
      secret: identity.secret,
      connCount: connection.connCount,
      nextXid: (target.requester.lastXid + 1) as Xid,
      instance: target.instance,
      targetUuid,
      targetIndex: target.index,
      label: target.label,
      lastTransno: target.replays.lastExecuted,
      grantBytes: target.grantBytes,
      metaGrantBytes: target.changes.grantBytes,
      fids: target.fids.ranges(),
      activeHandles: [...target.activeHandles],
      tickets: target.tickets.all(),
      ...context.handles.state(),
      granted: [...target.appLocks.granted()],
      waiting: target.appLocks
        .waiting()
        .map(({ fid, range, sequence, fh, handle }) => ({ fid, range, sequence, fh, handle })),
      held: held.all(),
    };
  }

  /** This process goes on. @param hasWorked the other one may have changed something. */
  stay(hasWorked: boolean): void {
    const { target, connection, drain } = this.#parts;
    if (this.#hasLeft) {
      this.#hasLeft = false;
      target.requester.skipXids(XIDS_SKIPPED);
      if (hasWorked) {
        // The other process may have used them up.
        target.fids.clear();
        target.grantBytes = 0;
        target.changes.newInstance();
      }
      connection.takeBack(CONNECTIONS_SKIPPED);
      for (const lock of target.appLocks.waiting()) {
        target.outgoing.whenOpen(() => {
          if (!target.appLocks.askAgain(lock)) return;
          target.outgoing.cancel([lock.handle]);
          enqueueAgain(target, lock).catch((error: unknown) => log('a lock that waits: %s', error));
        });
      }
    }
    drain.stay();
  }

  paused(ms: number, calls: number): void {
    this.#parts.target.gate.pausedFor(ms, calls);
  }
}

/** Takes over what another process had as this client. Called before the first connection. */
export function takeOver(context: ClientContext, target: TargetSession, state: ClientStateMessage): void {
  target.index = state.targetIndex;
  target.label = state.label;
  target.instance = state.instance;
  target.targetUuid = state.targetUuid;
  target.grantBytes = state.grantBytes;
  target.changes.promised(state.metaGrantBytes);
  target.replays.goesOnFrom(state.lastTransno);
  for (const range of state.fids) target.fids.add(range);
  for (const handle of state.activeHandles) target.activeHandles.add(handle);
  for (const ticket of state.tickets) target.tickets.add(ticket);
  context.handles.takeOver(state, (known) => (known === 'never' ? ACROSS_SESSIONS : target.session));
  for (const { fid, range, sequence, fh } of state.granted) target.appLocks.grant(fid, range, sequence, fh);
}
