/**
 * CONNECT: who the peer is, what the server still has of it, and what both speak.
 *
 * A client makes up a secret and says it in each CONNECT. What the server has of a client is for whoever knows its secret:
 * its UUID alone gives nothing, and takes nothing from it. (Clients of earlier releases have none.)
 *
 * | the server has            | the client was here before | outcome |
 * |---------------------------|----------------------------|---------|
 * | its export                | in this instance           | resumed |
 * | its export                | never (its first CONNECT's reply was lost) | new |
 * | its export, recovered     | in the instance it recovered from (the end of it was lost) | recover |
 * | its record, window open   | in an earlier instance     | recover, or evicted (docs/RECOVERY.md, "Version gate") |
 * | its record, window open   | never (it was evicted, or is another one) | new |
 * | nothing                   | never                      | new     |
 * | nothing                   | in whatever instance       | evicted |
 * | not active                | whenever                   | wait    |
 */

import { FsError } from '../../base/errno.js';
import type { Transno } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { Requester } from '../../rpc/requester.js';
import type { ClientRecord } from '../../storage/api.js';
import { type Negotiated, negotiate, ownAbilities } from '../../wire/negotiate.js';
import { type ConnectReply, type ConnectRequest, FEATURE } from '../../wire/session.js';
import { Export } from '../export/export.js';
import { cameAnew, evict, goodbye } from '../target/eviction.js';
import type { Target } from '../target/target.js';
import { versionChange } from '../target/version_gate.js';
import type { Host } from './host.js';
import { checkOrigin, isSameSecret } from './peer.js';
import type { Session } from './session.js';

const log = logger('server:connect');

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

type Agreed = Extract<Negotiated, { readonly agreed: true }>;
type Verdict = Pick<ConnectReply, 'outcome' | 'reason'>;

/**
 * @throws FsError EPROTO (no common protocol, no UUID), ENODEV (another target), EAGAIN (an older connection's CONNECT),
 *   EACCES (not from a privileged port; not the secret of this client).
 */
export function connect(host: Host, session: Session, request: ConnectRequest): ConnectReply {
  checkOrigin(session.link.origin, host.settings.anyPort);
  const agreed = negotiate(request, ownAbilities(host.settings.softwareVersion));
  if (!agreed.agreed) throw new FsError('EPROTO', agreed.refusal);
  if (session.role === 'client') throw new FsError('EPROTO', 'this connection is connected already');
  session.link.connCount = request.connCount;
  session.link.protocol = agreed.protocol;
  if (request.role === 'admin') {
    session.role = 'admin';
    return { ...common(host, agreed), outcome: 'new' };
  }
  if (!UUID.test(request.uuid)) throw new FsError('EPROTO', 'a client needs a UUID');
  const { target } = host;
  if (target === undefined) return { ...common(host, agreed), outcome: 'wait', reason: notActive(host) };
  const { superblock } = target.store;
  if (request.targetUuid !== undefined && request.targetUuid !== superblock.targetUuid) {
    throw new FsError(
      'ENODEV',
      `this is target ${superblock.label} (${superblock.targetUuid}), not the one meant`,
    );
  }
  const verdict = admit(host, target, session, request, agreed);
  log('%s %s from %s: %s', request.name, request.uuid, session.link.peer, verdict.outcome);
  const owner = session.export;
  if (owner === undefined) return { ...common(host, agreed), ...verdict };
  const fresh = verdict.outcome !== 'resumed';
  return {
    ...common(host, agreed),
    ...verdict,
    fids: fresh ? target.allocateFids() : undefined,
    grantBytes: granted(host, target, owner, request, verdict),
    lastCommitted: (owner.features & FEATURE.replay) === 0 ? undefined : target.store.lastCommitted,
  };
}

/** What is promised to those who come back is kept for them: until all of them are here nobody gets more. */
function granted(
  host: Host,
  target: Target,
  owner: Export,
  request: ConnectRequest,
  { outcome }: Verdict,
): number {
  if (outcome === 'resumed' || (owner.features & FEATURE.grants) === 0) return 0;
  if (outcome === 'recover') return target.grants.promiseAgain(owner, request.grantsInUse ?? 0);
  return host.recovery?.isOpen === true ? 0 : target.grants.refill(owner);
}

function common(host: Host, agreed: Agreed): Omit<ConnectReply, 'outcome'> {
  const superblock = host.target?.store.superblock;
  return {
    protocol: agreed.protocol,
    features: agreed.features,
    softwareVersion: host.settings.softwareVersion,
    label: superblock?.label,
    targetUuid: superblock?.targetUuid,
    targetIndex: superblock?.targetIndex,
    instance: superblock?.instance,
    pingIntervalMs: host.settings.pingIntervalMs,
    lockTimeoutMs: host.settings.lockTimeoutMs,
  };
}

function notActive(host: Host): string {
  switch (host.state) {
    case 'standby':
      return 'not active yet: this server is the standby';
    case 'starting':
      return 'not active yet: the server is starting';
    default:
      return 'the server is shutting down';
  }
}

/** Finds or makes the export and ties the session to it, or says why not. */
function admit(
  host: Host,
  target: Target,
  session: Session,
  request: ConnectRequest,
  agreed: Agreed,
): Verdict {
  const { instance } = target.store.superblock;
  const existing = target.exports.get(request.uuid);
  const here = request.previousInstance === instance;
  checkSecret(existing?.secret ?? host.recovery?.known(request.uuid)?.secret, request);
  if (existing !== undefined && request.connCount <= existing.connCount) {
    throw new FsError('EAGAIN', `a later connection of this client (${existing.connCount}) is there`);
  }
  const open = host.state === 'active' || host.state === 'recovering';
  // A client that lost its connection in the middle of the drain, or right before it, must be able to finish it.
  const finishes = here || (existing !== undefined && target.returning.has(existing));
  if (!open && !(host.state === 'draining' && existing !== undefined && finishes)) {
    return { outcome: 'wait', reason: notActive(host) };
  }
  if (target.leaving.get(request.uuid)?.isWriting === true) {
    return { outcome: 'wait', reason: 'what is left of this client is being cleaned up' };
  }
  if (existing !== undefined) {
    if (here) return attached(session, existing, request, agreed, 'resumed');
    if (request.previousInstance !== undefined && request.previousInstance === existing.recoveredFrom) {
      // The end of its recovery did not reach it, and it replays again, which changes nothing. Nothing is dropped for it: it
      // may be counted as recovered, and its locks must stand when the window ends.
      existing.reclaimed.begin(target.locks.cacheLocks(existing.uuid));
      return attached(session, existing, request, agreed, 'recover');
    }
    if (request.previousInstance === undefined) goodbye(target, existing);
    else evict(target, existing, 'it came back as a client of an earlier instance after its recovery');
  }
  if (request.previousInstance === undefined) {
    const full = host.admitsClient(target.exports.size + (host.recovery?.missing().length ?? 0));
    if (full !== undefined) return { outcome: 'wait', reason: full };
    cameAnew(target, request.uuid);
    const owner = newExport(target, request);
    target.store.execute(
      (tx) => {
        // Of an earlier client with this UUID, who knows that it is gone for the server.
        tx.removeClient(owner.uuid);
        tx.putClient(owner.record());
      },
      { reserve: 'own' },
    );
    host.recovery?.gone(owner.uuid);
    owner.recorded = target.store.sync().then(
      () => {
        owner.recorded = undefined;
      },
      // The target has failed, and its server stops.
      () => undefined,
    );
    return attached(session, owner, request, agreed, 'new');
  }
  const record = here ? undefined : host.recovery?.known(request.uuid);
  if (record === undefined) {
    const reason = target.exports.evictionReason(request.uuid);
    return { outcome: 'evicted', reason: reason ?? 'the server knows nothing of this client any more' };
  }
  return recover(host, target, session, request, agreed, record);
}

function checkSecret(held: string | undefined, { secret, name, uuid }: ConnectRequest): void {
  if (held === undefined || isSameSecret(held, secret)) return;
  log('%s says it is %s and does not know its secret', name, uuid);
  throw new FsError('EACCES', 'this UUID is that of another client, whose secret was not given');
}

function recover(
  host: Host,
  target: Target,
  session: Session,
  request: ConnectRequest,
  agreed: Agreed,
  record: ClientRecord,
): Verdict {
  const owner = newExport(target, request);
  const inherited = owner.slots.inherit(target.store.replies(owner.uuid));
  owner.lastTransno = Math.max(inherited, record.lastTransno) as Transno;
  const reason = cannotRecover(host, target, request, agreed);
  if (reason !== undefined) {
    evict(target, owner, reason);
    return { outcome: 'evicted', reason };
  }
  owner.recovering = true;
  if (host.recovery?.wasClean === false) target.returning.add(owner);
  owner.recoveredFrom = request.previousInstance;
  host.recovery?.came(request.uuid);
  const isAsRecorded =
    owner.name === record.name &&
    owner.softwareVersion === record.softwareVersion &&
    owner.secret === record.secret;
  if (!isAsRecorded) {
    target.store.execute((tx) => tx.putClient(owner.record()), { reserve: 'own' });
  }
  // It has no answer that a crash could undo: nobody need wait for its replays.
  if (isAllDurable(target, request)) host.recovery?.replays.complete(owner.uuid);
  return attached(session, owner, request, agreed, 'recover');
}

/**
 * A drained client has nothing but opens and application locks. What an undrained one has is executed again, if it and
 * this version of the server know how to.
 */
function cannotRecover(
  host: Host,
  target: Target,
  request: ConnectRequest,
  agreed: Agreed,
): string | undefined {
  const { recovery, settings } = host;
  const change = versionChange(recovery?.previousVersion ?? '', settings.softwareVersion);
  if (request.hasMoreThanOpens === true && change !== undefined) return change;
  if ((agreed.features & FEATURE.replay) !== 0) return undefined;
  if (request.hasMoreThanOpens === true) {
    return 'it has operations that were not completed before the server stopped, and cannot replay them';
  }
  if (recovery?.wasClean === true || isAllDurable(target, request)) return undefined;
  return 'the server was killed, and this client cannot replay what was not durable';
}

function isAllDurable(target: Target, { lastTransno }: ConnectRequest): boolean {
  return lastTransno !== undefined && lastTransno <= target.store.lastCommitted;
}

function newExport(target: Target, request: ConnectRequest): Export {
  const owner = new Export(request, new Requester(), target.runtime.clock.nowMs(), target.kept);
  target.exports.add(owner);
  return owner;
}

function attached(
  session: Session,
  owner: Export,
  request: ConnectRequest,
  agreed: Agreed,
  outcome: 'new' | 'resumed' | 'recover',
): Verdict {
  const previous = owner.link;
  owner.link = undefined;
  previous?.destroy(new FsError('ECANCELED', 'replaced by a later connection'));
  owner.connCount = request.connCount;
  owner.features = agreed.features;
  owner.name = request.name;
  owner.softwareVersion = request.softwareVersion;
  session.attach(owner);
  return { outcome };
}
