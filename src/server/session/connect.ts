/**
 * CONNECT: who the peer is, what the server still has of it, and what both speak.
 *
 * What the server has of a client is for whoever connects with the proof with which the client's session was made (its key, for
 * example), and knows the secret that the client made up and says in each CONNECT. The client's UUID gives nothing, and takes
 * nothing from it. (Sessions of earlier releases have no proof; clients of still earlier ones have no secret.)
 *
 * connect_outcome.ts decides what becomes of a client, from what connect_facts.ts finds; here it is done.
 */

import { assert, assertNever } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import type { Transno } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { printable } from '../../base/printable.js';
import { Requester } from '../../rpc/requester.js';
import type { ClientRecord } from '../../storage/api.js';
import { type Negotiated, negotiate, ownAbilities, tooOld } from '../../wire/negotiate.js';
import { type ConnectReply, type ConnectRequest, FEATURE } from '../../wire/session.js';
import { rightsOfPeer } from '../access/peers.js';
import type { Rights } from '../access/rights.js';
import { ClientExport } from '../export/export.js';
import { cameAnew, evict, goodbye } from '../target/eviction.js';
import type { ServedTarget } from '../target/served_target.js';
import { versionChange } from '../target/version_gate.js';
import { knownOf, saidBy } from './connect_facts.js';
import { decideConnect } from './connect_outcome.js';
import type { ServerView } from './server_view.js';
import type { Session } from './session.js';

const log = logger('server:connect');

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

type Agreed = Extract<Negotiated, { readonly agreed: true }>;
type Verdict = Pick<ConnectReply, 'outcome' | 'reason'>;

/** A client that asks to be admitted. */
interface Applicant {
  readonly server: ServerView;
  readonly target: ServedTarget;
  readonly session: Session;
  readonly request: ConnectRequest;
  readonly agreed: Agreed;
  readonly rights: Rights;
}

/**
 * @throws FsError EPROTO (no common protocol, no UUID), ENODEV (another target), EAGAIN (an older connection's CONNECT),
 *   EACCES (the peer may not connect: see access/peers.ts; it is not this client).
 */
export function connect(server: ServerView, session: Session, received: ConnectRequest): ConnectReply {
  // What it calls itself is shown to administrators, and stands in logs.
  const request = {
    ...received,
    name: printable(received.name),
    softwareVersion: printable(received.softwareVersion),
  };
  try {
    return answer(server, session, request);
  } catch (thrown) {
    if (thrown instanceof FsError && thrown.code === 'EACCES')
      server.refused(session.link.peer, thrown.message);
    throw thrown;
  }
}

function answer(server: ServerView, session: Session, request: ConnectRequest): ConnectReply {
  const { softwareVersion, lowestPeer } = server.settings;
  const spoken = negotiate(request, ownAbilities(softwareVersion));
  if (!spoken.agreed) throw new FsError('EPROTO', spoken.refusal);
  // Administrators of any version may ask how the server is, and shut it down.
  const peer = { is: 'client', softwareVersion: request.softwareVersion } as const;
  const old = request.role === 'admin' ? undefined : tooOld(lowestPeer, peer, softwareVersion);
  if (old !== undefined) throw new FsError('EPROTO', old);
  if (session.role === 'client') throw new FsError('EPROTO', 'this connection is connected already');
  const { link } = session;
  const rights = rightsOfPeer(
    link.origin,
    claimOf(server, request),
    server.target?.access,
    server.settings.plain,
  );
  session.rights = rights;
  const agreed = isRestricted(rights) ? { ...spoken, features: spoken.features & ~OF_TRUST } : spoken;
  session.link.connCount = request.connCount;
  session.link.protocol = agreed.protocol;
  if (request.role === 'admin') {
    const many =
      rights.admin || session.role === 'admin' ? undefined : server.admitsWatcher(rights.principal);
    if (many !== undefined) throw new FsError('EACCES', many);
    session.role = 'admin';
    session.link.welcomeAdmin();
    return { ...common(server, agreed), outcome: 'new' };
  }
  if (!UUID.test(request.uuid)) throw new FsError('EPROTO', 'a client needs a UUID');
  const { target } = server;
  if (target === undefined) return { ...common(server, agreed), outcome: 'wait', reason: notActive(server) };
  const { superblock } = target.store;
  if (request.targetUuid !== undefined && request.targetUuid !== superblock.targetUuid) {
    throw new FsError(
      'ENODEV',
      `this is target ${superblock.label} (${superblock.targetUuid}), not the one meant`,
    );
  }
  if (request.label !== undefined && request.label !== superblock.label) {
    throw new FsError('ENODEV', `this server has the filesystem ${superblock.label}, not ${request.label}`);
  }
  const applicant = { server, target, session, request, agreed, rights };
  const verdict = admit(applicant);
  log('%s %s from %s: %s', request.name, request.uuid, session.link.peer, verdict.outcome);
  const client = session.client;
  if (client === undefined) return { ...common(server, agreed), ...verdict };
  const fresh = verdict.outcome !== 'resumed';
  return {
    ...common(server, agreed),
    ...verdict,
    fids: fresh ? target.allocateFids(client) : undefined,
    grantBytes: granted(applicant, client, verdict),
    metaGrantBytes: metaGranted(applicant, client, verdict),
    time: (client.features & FEATURE.batch) === 0 ? undefined : server.runtime.clock.wall(),
    lastCommitted: (client.features & FEATURE.replay) === 0 ? undefined : target.store.lastCommitted,
    restricted: restrictionsOf(rights),
  };
}

/** The entry of this target's access table that a peer of this host counts as, if it names one. */
function claimOf({ target }: ServerView, { access }: ConnectRequest): string | undefined {
  const of = access?.targetUuid;
  return of === undefined || of === target?.store.superblock.targetUuid ? access?.name : undefined;
}

/** What clients do by themselves and tell later, and so what the server could not check. */
const OF_TRUST = FEATURE.batch | FEATURE.localOpens | FEATURE.ownFiles;

function isRestricted({ readOnly, squashRoot }: Rights): boolean {
  return readOnly || squashRoot;
}

function restrictionsOf({ readOnly, squashRoot }: Rights): ConnectReply['restricted'] {
  return readOnly || squashRoot ? { readOnly, squashRoot } : undefined;
}

/** What is promised to those who come back is kept for them: until all of them are here nobody gets more. */
function granted({ server, target, request }: Applicant, client: ClientExport, { outcome }: Verdict): number {
  if (outcome === 'resumed' || (client.features & FEATURE.grants) === 0) return 0;
  if (outcome === 'recover') return target.grants.promiseAgain(client, request.grantsInUse ?? 0);
  return server.recovery?.isOpen === true ? 0 : target.grants.refill(client);
}

/** The same for the meta device. What a client has in use it knows itself. */
function metaGranted(
  { server, target, request }: Applicant,
  client: ClientExport,
  { outcome }: Verdict,
): number | undefined {
  if ((client.features & FEATURE.batch) === 0) return undefined;
  if (outcome === 'resumed') return 0;
  if (outcome === 'recover') {
    target.metaGrants.promiseAgain(client, request.metaGrantInUse ?? 0);
    return 0;
  }
  return server.recovery?.isOpen === true ? 0 : target.metaGrants.refill(client);
}

function common(server: ServerView, agreed: Agreed): Omit<ConnectReply, 'outcome'> {
  const superblock = server.target?.store.superblock;
  return {
    protocol: agreed.protocol,
    features: agreed.features,
    softwareVersion: server.settings.softwareVersion,
    label: superblock?.label,
    targetUuid: superblock?.targetUuid,
    targetIndex: superblock?.targetIndex,
    instance: superblock?.instance,
    pingIntervalMs: server.settings.pingIntervalMs,
  };
}

function notActive(server: ServerView): string {
  switch (server.state) {
    case 'standby':
      return 'not active yet: this server is the standby';
    case 'starting':
      return 'not active yet: the server is starting';
    default:
      return 'the server is shutting down';
  }
}

/** Finds or makes the export and ties the session to it, or says why not. */
function admit(applicant: Applicant): Verdict {
  const { server, target, request, rights } = applicant;
  const { uuid } = request;
  const existing = target.exports.get(uuid);
  const record = server.recovery?.known(uuid);
  const decision = decideConnect(
    knownOf(server, target, request, existing, record),
    saidBy(target, request, rights, existing, record),
  );
  switch (decision.do) {
    case 'refuse':
      throw refusal(decision.code, request, existing);
    case 'wait':
      return { outcome: 'wait', reason: decision.why === 'writing' ? CLEANED_UP : notActive(server) };
    case 'resume': {
      const client = there(existing);
      // What it has, and what it does by itself, was not checked.
      if (isTighter(client.rights, rights)) {
        evict(target, client, RIGHTS_CHANGED, 'access');
        return { outcome: 'evicted', reason: RIGHTS_CHANGED };
      }
      return attached(applicant, client, 'resumed');
    }
    case 'recoverAgain':
      return recoverAgain(applicant, there(existing));
    case 'begin':
      if (decision.leaves) goodbye(target, there(existing));
      return begin(applicant);
    case 'recover':
      return recover(applicant, there(record));
    case 'evicted':
      if (decision.evicts) evict(target, there(existing), CAME_BACK_EARLIER);
      return {
        outcome: 'evicted',
        reason: target.exports.evictionReason(uuid) ?? 'the server knows nothing of this client any more',
      };
    default:
      return assertNever(decision);
  }
}

const RIGHTS_CHANGED = 'an administrator has taken rights from its entry of the access table';
const CLEANED_UP = 'what is left of this client is being cleaned up';
const CAME_BACK_EARLIER = 'it came back as a client of an earlier instance after its recovery';

function isTighter(before: Rights, now: Rights): boolean {
  return (now.readOnly && !before.readOnly) || (now.squashRoot && !before.squashRoot);
}

/** What the decision is based on. */
function there<T>(part: T | undefined): T {
  assert(part !== undefined, 'the decision is about something that the server has');
  return part;
}

function refusal(
  code: 'EACCES' | 'EAGAIN',
  { name, uuid }: ConnectRequest,
  existing: ClientExport | undefined,
): FsError {
  if (code === 'EAGAIN') {
    return new FsError(code, `a later connection of this client (${existing?.connCount}) is there`);
  }
  log('%s says it is %s and cannot prove it', name, uuid);
  return new FsError(
    code,
    'this UUID is that of another client: its session was made with another key, or its secret was not given',
  );
}

/**
 * The end of its recovery did not reach it, and it replays again, which changes nothing. Nothing is dropped for it: it may be
 * counted as recovered, and its locks must stand when the window ends.
 */
function recoverAgain(applicant: Applicant, client: ClientExport): Verdict {
  client.reclaimed.begin(applicant.target.locks.cacheLocks(client.uuid));
  return attached(applicant, client, 'recover');
}

function begin(applicant: Applicant): Verdict {
  const { server, target, request } = applicant;
  const full = server.admitsClient(target.exports.size + (server.recovery?.missing().length ?? 0));
  if (full !== undefined) return { outcome: 'wait', reason: full };
  const many = hasTooMany(applicant);
  if (many !== undefined) return { outcome: 'wait', reason: many };
  cameAnew(target, request.uuid);
  const client = newExport(applicant);
  target.store.execute(
    (tx) => {
      // Of an earlier client with this UUID, who knows that it is gone for the server.
      tx.removeClient(client.uuid);
      tx.putClient(client.record());
    },
    { reserve: 'own' },
  );
  server.recovery?.gone(client.uuid);
  client.recorded = target.store.sync().then(
    () => {
      client.recorded = undefined;
    },
    // The target has failed, and its server stops.
    () => undefined,
  );
  return attached(applicant, client, 'new');
}

/** @returns why one more client of this entry has to wait, if it has to. Those that recover count, and are never refused. */
function hasTooMany({ server, target, request, rights }: Applicant): string | undefined {
  const { principal, limits } = rights;
  if (limits.clients === undefined) return undefined;
  let clients = 0;
  for (const client of target.exports) if (client.rights.principal === principal) clients += 1;
  for (const record of server.recovery?.missing() ?? []) {
    if (record.principal === principal && record.uuid !== request.uuid) clients += 1;
  }
  if (clients < limits.clients) return undefined;
  return `${principal} has ${clients} clients, as many as it may have (holdfast access list)`;
}

function recover(applicant: Applicant, record: ClientRecord): Verdict {
  const { server, target, request } = applicant;
  const client = newExport(applicant);
  client.fids.hasOlder(target.firstFid);
  const inherited = client.durableAnswers.inherit(target.store.replies(client.uuid));
  client.lastTransno = Math.max(inherited, record.lastTransno) as Transno;
  const reason = cannotRecover(applicant);
  if (reason !== undefined) {
    evict(target, client, reason, 'recovery');
    return { outcome: 'evicted', reason };
  }
  client.recovering = true;
  if (server.recovery?.wasClean === false) target.undrained.add(client);
  client.recoveredFrom = request.previousInstance;
  server.recovery?.came(request.uuid);
  const isAsRecorded =
    client.name === record.name &&
    client.softwareVersion === record.softwareVersion &&
    client.secret === record.secret &&
    client.rights.principal === record.principal;
  if (!isAsRecorded) {
    target.store.execute((tx) => tx.putClient(client.record()), { reserve: 'own' });
  }
  // It has no answer that a crash could undo: nobody need wait for its replays.
  if (isAllDurable(target, request)) server.recovery?.replays.complete(client.uuid);
  return attached(applicant, client, 'recover');
}

/**
 * A drained client has nothing but opens and application locks. What an undrained one has is executed again, if it and
 * this version of the server know how to.
 */
function cannotRecover({ server, target, request, agreed }: Applicant): string | undefined {
  const { recovery, settings } = server;
  const change = versionChange(recovery?.previousVersion ?? '', settings.softwareVersion);
  if (request.hasMoreThanOpens === true && change !== undefined) return change;
  if ((agreed.features & FEATURE.replay) !== 0) return undefined;
  if (request.hasMoreThanOpens === true) {
    return 'it has operations that were not completed before the server stopped, and cannot replay them';
  }
  if (recovery?.wasClean === true || isAllDurable(target, request)) return undefined;
  return 'the server was killed, and this client cannot replay what was not durable';
}

function isAllDurable(target: ServedTarget, { lastTransno }: ConnectRequest): boolean {
  return lastTransno !== undefined && lastTransno <= target.store.lastCommitted;
}

function newExport({ target, request, rights }: Applicant): ClientExport {
  const client = new ClientExport(
    request,
    rights,
    new Requester(),
    target.runtime.clock.nowMs(),
    target.kept.of(rights.principal, rights.limits.waitingBytes),
    target.life,
  );
  target.exports.add(client);
  return client;
}

function attached(
  { session, request, agreed, rights }: Applicant,
  client: ClientExport,
  outcome: 'new' | 'resumed' | 'recover',
): Verdict {
  const previous = client.link;
  client.link = undefined;
  previous?.destroy(new FsError('ECANCELED', 'replaced by a later connection'));
  client.connCount = request.connCount;
  client.features = agreed.features;
  client.rights = rights;
  client.reclaims = outcome === 'recover';
  if (!client.reclaims) client.proven.clear();
  client.name = request.name;
  client.softwareVersion = request.softwareVersion;
  session.attach(client);
  return { outcome };
}
