/**
 * READ, WRITE, SYNC, FALLOCATE, SEEK, COPY_RANGE.
 *
 * READ and WRITE wait for no lock: the client holds a data lock, and a client that gives one back must get its flush
 * through, whatever else waits here (docs/LOCKING.md, "Who waits for whom"). The server refuses them without that lock. It
 * does not ask for a handle: a client may write a file back after its process closed it, and CLOSE may come before WRITE.
 */

import { FsError } from '../../base/errno.js';
import type { Fid, Transno } from '../../base/ids.js';
import { checkFileEnd } from '../../base/limits.js';
import { andThen, isPromise, type MaybePromise } from '../../base/maybe_promise.js';
import { SLAB_BYTES } from '../../base/slab_pool.js';
import type { HandlerOutcome, Incoming } from '../../rpc/api.js';
import { needRegular } from '../../rules/checks.js';
import { dropCapability, dropPrivileges, hasPrivileges } from '../../rules/setattr.js';
import type { Change, Executed, Inode, ReplyRecord, Within } from '../../storage/api.js';
import { type CopyRange, type Fallocate, type Read, type Seek, type Sync, Write } from '../../wire/data.js';
import { BULK_MAX } from '../../wire/header.js';
import { BIT_ATTR } from '../../wire/lock.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { BLOCK_BYTES, blocksBytes, type Claim } from '../export/space_grants.js';
import { noteChange } from '../target/commit_on_sharing.js';
import { noteMoved } from '../target/eviction.js';
import type { ServedCall } from '../target/served_call.js';
import { inodeOrGone } from './executed_before.js';
import { truncationLocks } from './open.js';
import { type Answered, answered, dataLock, inodeLock, locked } from './with_locks.js';

export function read(
  call: ServedCall,
  request: RequestOf<typeof Read>,
  incoming: Incoming<ReplyOf<typeof Read>>,
): Answered<ReplyOf<typeof Read>> {
  const { store } = call.target;
  const { fid, offset, length } = request;
  needRegular(store, fid);
  needDataLock(call, fid, 'PR');
  if (length > BULK_MAX) throw new FsError('EINVAL', `${length} bytes do not fit a reply`);
  const { slabs } = call.target;
  const slab = length === SLAB_BYTES ? slabs.take(length) : undefined;
  const outcome = (bulk: readonly Uint8Array[]): HandlerOutcome<ReplyOf<typeof Read>> => {
    const sent = slab === undefined ? undefined : () => slabs.give(slab);
    for (const chunk of bulk) {
      call.target.bytes.read += chunk.length;
      noteMoved(call.client, fid, chunk.length);
    }
    return { reply: { sizeBytes: store.inode(fid)?.sizeBytes ?? 0 }, bulk, sent };
  };
  // If the read fails, the slab does not go back: the device may still read other parts into it.
  const reading = call.target.reads.during(call.link, length, () =>
    store.data.read(fid, offset, length, slab),
  );
  return answered(incoming, andThen(onDevice(call, reading), outcome));
}

/** For the log of slow operations. */
function onDevice<T>({ target }: ServedCall, work: MaybePromise<T>): MaybePromise<T> {
  return isPromise(work) ? target.runtime.waits.during(() => 'device', work) : work;
}

/** @throws FsError EPERM. Only a client that breaks the rules gets it. */
function needDataLock({ target, client }: ServedCall, fid: Fid, mode: 'PR' | 'PW'): void {
  if (target.locks.holdsData(client.uuid, fid, mode)) return;
  throw new FsError('EPERM', `the client has no ${mode} lock on the content of inode ${fid}`);
}

export function write(
  call: ServedCall,
  request: RequestOf<typeof Write>,
  incoming: Incoming<ReplyOf<typeof Write>>,
): Answered<ReplyOf<typeof Write>> {
  const { target, client } = call;
  const { fid, offset, mtime } = request;
  const data = incoming.bulk;
  // The server may have evicted the client while this WRITE waited. The client's locks stay until the eviction is durable, and
  // would let the WRITE pass.
  call.assertLive();
  needRegular(target.store, fid);
  // A client replays its locks after its operations.
  if (!call.isReplay) needDataLock(call, fid, 'PW');
  checkFileEnd(offset + data.length);
  const dropsPrivileges = call.caller !== undefined && hasPrivileges(needRegular(target.store, fid));
  const paid = call.isReplay ? 0 : target.grants.spend(client, request.grantUsed);
  target.bytes.write += data.length;
  noteMoved(client, fid, data.length);
  const execute = (_taken: number, takes: Takes): MaybePromise<Executed<Inode>> => {
    const within = contentChange(call, fid);
    const written = target.store.data.write(fid, offset, data, {
      time: mtime,
      within,
      transno: call.replayTransno,
      takes,
    });
    // Notes it before anybody learns that the write is done: an eviction that waits for it gives the file to the next client.
    return andThen(onDevice(call, written), (done) => {
      noteChange(call, dataLock(fid, 'EX'), done.transno);
      if (dropsPrivileges) tellNewMode(call, fid, done.transno);
      return done;
    });
  };
  const outcome = ({ result, transno }: Executed<Inode>): HandlerOutcome<ReplyOf<typeof Write>> => {
    return {
      reply: { blocks: result.blocks, grantBytes: call.isReplay ? 0 : target.grants.refill(client) },
      transno,
    };
  };
  return answered(
    incoming,
    andThen(
      inFlight(call, () => withSpace(call, { fid, offset, length: data.length, paid }, execute)),
      outcome,
    ),
  );
}

/**
 * What a change of content adds to its transactions: the file loses its capability with the first byte. Its set-id bits go where
 * the caller's kernel has asked for that, and always with a change by a user of a squashed session: that client may not have asked.
 */
function contentChange(call: ServedCall, fid: Fid, copiedBytes = 0): Within {
  return (tx, inode, isLast) => {
    if (call.caller === undefined) dropCapability(tx, inode);
    else dropPrivileges(tx, inode);
    if (isLast) call.writeRecord(tx, fid, copiedBytes);
  };
}

/**
 * A WRITE has changed the mode, and waits for no lock, so other clients still believe the old one. They are called back at once, and
 * hear of it before the writer's lock can be theirs: nobody sees the new content as that of a set-id file for longer.
 */
function tellNewMode(call: ServedCall, fid: Fid, transno: Transno): void {
  const attributes = inodeLock(fid, 'EX', BIT_ATTR);
  noteChange(call, attributes, transno);
  if (call.isReplay) return;
  const release = call.target.locks.acquire(undefined, [attributes]);
  if (!isPromise(release)) release();
  // If it rejects, the target is over.
  else release.then((give) => give()).catch(() => undefined);
}

/** Counts the write, so that an eviction waits for writes that the store already works on. */
function inFlight<T>(call: ServedCall, run: () => MaybePromise<T>): MaybePromise<T> {
  const { client } = call;
  const running = run();
  if (!(running instanceof Promise)) return running;
  client.writes.add();
  return running.finally(() => client.writes.done());
}

/** The range of a file that gets new content. */
interface Content {
  readonly fid: Fid;
  readonly offset: number;
  readonly length: number;
  /** Bytes that the client has paid from its grant. */
  readonly paid?: number;
  /** Bytes of its grant that the client does not use, and that the server may take. */
  readonly offered?: number | undefined;
}

type Takes = NonNullable<Change['takes']>;
/** @param grantTaken bytes that were taken from the client's grant. @param takes hears which blocks the change has got. */
type Run<T> = (grantTaken: number, takes: Takes) => MaybePromise<T>;

/** A write that its client has not paid for must not use space that the server has promised to others. */
function withSpace<T>(call: ServedCall, content: Content, run: Run<T>): MaybePromise<T> {
  const { grants } = call.target;
  const { offset, length, paid = 0 } = content;
  const claim = grants.claim(paid);
  // The content of a small file lies in the database, and moves into block 0 when the file grows past it.
  const moves = offset >= BLOCK_BYTES ? BLOCK_BYTES : 0;
  const unpaid = Math.max(0, blocksBytes(offset, length) + moves - paid);
  let running: MaybePromise<T>;
  try {
    // A replay found its space at its first execution.
    if (unpaid === 0 || call.isReplay || grants.fitsUnpromised(unpaid)) {
      claim.run(unpaid);
      running = run(0, claim.took);
    } else {
      running = whenItFits(call, content, claim, run);
    }
  } catch (error) {
    claim.end();
    throw error;
  }
  if (running instanceof Promise) return running.finally(() => claim.end());
  claim.end();
  return running;
}

async function whenItFits<T>(
  call: ServedCall,
  { fid, offset, length, paid = 0, offered = 0 }: Content,
  claim: Claim,
  run: Run<T>,
): Promise<T> {
  const { store, grants, holds } = call.target;
  for (let isLast = false; ; isLast = true) {
    // An overwritten block needs no more space than it has.
    const missing = await store.data.missingBytes(fid, offset, length);
    call.assertLive();
    const unpaid = Math.max(0, missing - paid);
    const taken = unpaid === 0 ? 0 : grants.makeFit(call.client, unpaid, offered);
    if (taken !== undefined) {
      // In the turn of the judgement: another change may be judged next.
      claim.run(unpaid);
      return await run(taken, claim.took);
    }
    if (isLast) throw new FsError('ENOSPC', 'no space left: the rest is promised to clients');
    await Promise.all([holds.letGo(), grants.runningEnd()]);
    // The next commit makes freed blocks free to use.
    await store.sync();
  }
}

export async function sync(
  call: ServedCall,
  _request: RequestOf<typeof Sync>,
  incoming: Incoming<ReplyOf<typeof Sync>>,
): Promise<undefined> {
  await writesBefore(call);
  await call.target.store.sync();
  incoming.answer({ reply: {} });
  return undefined;
}

/** A WRITE waits for the device, and SYNC comes right behind it. It waits for no lock, so SYNC does not wait for others. */
async function writesBefore({ client, xid }: ServedCall): Promise<void> {
  const writes = [...client.calls.values()].filter(
    (earlier) => earlier.opcode === Write.opcode && earlier.xid < xid,
  );
  await Promise.all(writes.map((earlier) => earlier.answered()));
}

const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const ZERO_RANGE = 16;

export function fallocate(
  call: ServedCall,
  request: RequestOf<typeof Fallocate>,
  incoming: Incoming<ReplyOf<typeof Fallocate>>,
): Answered<ReplyOf<typeof Fallocate>> {
  const { store } = call.target;
  const { fid, mode, offset, length } = request;
  const keepSize = (mode & KEEP_SIZE) !== 0;
  const kind = mode & ~KEEP_SIZE;
  if (kind !== 0 && kind !== PUNCH_HOLE && kind !== ZERO_RANGE)
    throw new FsError('EOPNOTSUPP', `mode ${mode}`);
  if (kind === PUNCH_HOLE && !keepSize) throw new FsError('EOPNOTSUPP', 'punch hole needs keep size');
  if (length === 0) throw new FsError('EINVAL', 'nothing to allocate');
  checkFileEnd(offset + length);
  return locked(
    call,
    incoming,
    () => {
      needRegular(store, fid);
      return truncationLocks(fid);
    },
    () => {
      const now = call.time(request.time);
      const within = contentChange(call, fid);
      let grantTaken = 0;
      const change = (taken: number, takes?: Takes): MaybePromise<Executed<Inode>> => {
        const { replayTransno } = call;
        grantTaken = taken;
        if (kind === 0)
          return store.data.allocate(fid, { offset, length }, keepSize, {
            time: now,
            within,
            transno: replayTransno,
            takes,
          });
        const how = kind === PUNCH_HOLE ? 'punch' : 'zero';
        return store.data.clear(fid, { offset, length }, how, keepSize, {
          time: now,
          within,
          transno: replayTransno,
          takes,
        });
      };
      const run = (): MaybePromise<Executed<Inode>> => {
        if (kind === PUNCH_HOLE) return change(0);
        // Only an upper bound: the store does not allocate blocks again that the file has.
        call.target.holds.makeRoom(blocksBytes(offset, length));
        return withSpace(call, { fid, offset, length, offered: request.grantOffered }, change);
      };
      return andThen(inFlight(call, run), ({ result, transno }) => ({
        reply: { attr: result, grantTaken },
        transno,
      }));
    },
  );
}

export function seek(
  call: ServedCall,
  request: RequestOf<typeof Seek>,
): HandlerOutcome<ReplyOf<typeof Seek>> {
  const { store } = call.target;
  needRegular(store, request.fid);
  const offset = store.data.seek(request.fid, request.offset, request.what);
  if (offset === undefined) throw new FsError('ENXIO', 'past the end');
  return { reply: { offset } };
}

/** Bytes of one COPY_RANGE. copy_file_range(2) may copy fewer bytes than asked; this limits how long the locks are held. */
const COPY_BYTES_MAX = 64 << 20;

export function copyRange(
  call: ServedCall,
  request: RequestOf<typeof CopyRange>,
  incoming: Incoming<ReplyOf<typeof CopyRange>>,
): Answered<ReplyOf<typeof CopyRange>> {
  const { store } = call.target;
  const { fromFid, fromOffset, toFid, toOffset } = request;
  const length = Math.min(request.length, COPY_BYTES_MAX);
  if (fromFid === toFid && fromOffset < toOffset + request.length && toOffset < fromOffset + request.length) {
    throw new FsError('EINVAL', 'the ranges overlap');
  }
  return locked(
    call,
    incoming,
    () => {
      const left = Math.max(0, needRegular(store, fromFid).sizeBytes - fromOffset);
      needRegular(store, toFid);
      checkFileEnd(toOffset + Math.min(left, length));
      const source = fromFid === toFid ? [] : [dataLock(fromFid, 'PR')];
      return [inodeLock(toFid, 'EX', BIT_ATTR), dataLock(toFid, 'EX'), ...source];
    },
    () => {
      const now = call.time(request.time);
      const left = Math.max(0, needRegular(store, fromFid).sizeBytes - fromOffset);
      const copied = Math.min(left, length);
      const within = contentChange(call, toFid, copied);
      const { replayTransno } = call;
      let grantTaken = 0;
      const copy = (taken: number, takes: Takes): ReturnType<typeof store.data.copy> => {
        grantTaken = taken;
        return store.data.copy(
          { fid: fromFid, offset: fromOffset },
          { fid: toFid, offset: toOffset },
          length,
          { time: now, within, transno: replayTransno, takes },
        );
      };
      return andThen(
        inFlight(call, () =>
          withSpace(
            call,
            { fid: toFid, offset: toOffset, length: copied, offered: request.grantOffered },
            copy,
          ),
        ),
        ({ result, transno, copied: done }) => ({
          reply: { copied: done, attr: result, grantTaken },
          transno,
        }),
      );
    },
  );
}

/** For a WRITE that was executed before: answers with the file as it is now. */
export function written(call: ServedCall, request: RequestOf<typeof Write>): ReplyOf<typeof Write> {
  const { target } = call;
  const { blocks } = inodeOrGone(target.store, request.fid);
  return { blocks, grantBytes: target.grants.refill(call.client) };
}

export function copied(
  call: ServedCall,
  request: RequestOf<typeof CopyRange>,
  done: ReplyRecord,
): ReplyOf<typeof CopyRange> {
  return { copied: done.copiedBytes, attr: inodeOrGone(call.target.store, request.toFid) };
}
