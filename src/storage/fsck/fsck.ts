/**
 * The check of a target: compares every record with the others and with the data device.
 *
 * checkTarget() works on an open database of any kind. fsckTarget() begins with the devices, and checks the pages of
 * the database before it lets lmdb map them. Nothing is written without `repair`. With it, fsck repairs what it can
 * repair without guessing, in rounds: it makes a whole check and the repairs of one stage, until a check finds nothing
 * more to repair. The findings of that last check are left in the report, so a second run says the same.
 *
 * Memory: 34 bytes for each inode, 8 bytes for each name, a bit for each block, and the findings that are kept.
 */

import { FsError } from '../../base/errno.js';
import type { BlockDevice } from '../../runtime/ports.js';
import type { TargetDevices, WriteGuard } from '../api.js';
import { BLOCK_BYTES } from '../format/block_map.js';
import { decodeDataHeader, type SuperblockRecord } from '../format/superblock.js';
import { metaMedium } from '../meta/lmdb_store.js';
import { applyFound, dropLog, type LoggedDatabase, openLogged } from '../meta/logged_database.js';
import { probeSuperblock } from '../meta/meta_probe.js';
import { checkedRecords } from '../meta/record_checksums.js';
import { storedSuperblock } from '../meta/superblock_layer.js';
import type { ContentPiece, MetaDatabase } from '../meta_medium.js';
import { guardedDevices } from '../ownership/write_guard.js';
import { checkAccess } from './access.js';
import { checkBlocks } from './blocks.js';
import { addChecksums } from './checksums.js';
import { checkClients, checkCounters, checkEvictions, checkReplies, readCounters } from './clients.js';
import { checkContent, judgeGhosts } from './content.js';
import { InodeIndex } from './inodes.js';
import { checkNames } from './names.js';
import { checkPages, type PagesReport } from './pages.js';
import { nameFindings } from './paths.js';
import { RepairTx } from './repair.js';
import {
  FINDINGS_KEPT,
  type Finding,
  Findings,
  type FsckCounts,
  type FsckReport,
  noCounts,
  type ReportedFinding,
} from './report.js';
import { checkKeys, type FsckContext, type FsckPhase, type FsckRuntime } from './scan.js';
import { applySalvage, madeBefore, type Salvage, salvage } from './snapshot.js';
import { BlockOwners, checkShared, checkSpace } from './space.js';
import { checkTree } from './tree.js';

export interface FsckOptions {
  /** Repairs everything that can be repaired without guessing. */
  readonly repair?: boolean | undefined;
  /** Also repairs a target that was not stopped cleanly, to which clients may still come back. */
  readonly force?: boolean | undefined;
  /**
   * With repair, if nothing is wrong: gives checksums to the records of earlier releases. Those releases refuse the
   * target then.
   */
  readonly addChecksums?: boolean | undefined;
  /** Set by a call from within fsck: it has repaired pages already. */
  readonly salvaged?: boolean | undefined;
  /** Compares every written block with its checksum. */
  readonly checksums?: boolean | undefined;
  /**
   * Called when both devices are known to be those of a target, and before fsck trusts anything on them. Has the target
   * from then on, so that nobody changes it meanwhile.
   * @throws FsError EBUSY if somebody else has the target.
   */
  readonly claim?: (() => Promise<WriteGuard>) | undefined;
  /** @param total of that phase, as far as fsck knows: it may grow. */
  readonly progress?: ((phase: FsckPhase, done: number, total: number) => void) | undefined;
}

/** Number of records that one transaction changes, about. */
const CHANGES_AT_ONCE = 2000;
/** A stage may need several rounds if there is more to repair than one round keeps. */
const ROUNDS_MAX = 100;

/**
 * Checks a target on its devices. The caller has opened them exclusively.
 * @throws FsError ENODEV, EPROTO, EINVAL: no target, or none that this version may judge; EBUSY: a repair of a target
 *   that was not stopped cleanly; EIO: a device failed. Damage is no error: it is in the report.
 */
export async function fsckTarget(
  runtime: FsckRuntime,
  devices: TargetDevices,
  options: FsckOptions = {},
): Promise<FsckReport> {
  const first = await recognize(runtime, devices);
  if (!('superblock' in first)) return await fsckDamaged(runtime, devices, options, { findings: [first] });
  // If the header is damaged, nobody knows to which target the device belongs: fsck only reads it and claims nothing.
  const guard = first.header === undefined ? await options.claim?.() : undefined;
  const sure = guard === undefined ? first : await recognize(runtime, devices);
  if (!('superblock' in sure)) return brokenReport(undefined, [sure], 0);
  const { superblock } = sure;
  mayRepair(superblock, options);
  const pages = await checkedPages(devices, options);
  if (pages.findings.length > 0) {
    return await fsckDamaged(runtime, devices, options, { ...pages, superblock, guard });
  }
  const mine = guard === undefined ? devices : guardedDevices(devices, guard);
  const logged = await openWithLog(runtime, mine, superblock, options);
  const { db, data } = logged;
  try {
    const checked = await checkTarget(runtime, db, data, options);
    const isSound = checked.left === 0 && options.repair === true && options.addChecksums === true;
    const report = isSound ? { ...checked, ...(await withChecksums(runtime, db)) } : checked;
    // If somebody else had the target meanwhile, the result is worth nothing.
    await guard?.check();
    const withPages = { ...report, counts: { ...report.counts, pages: pages.pages } };
    return logged.finding === undefined ? withPages : withFinding(withPages, logged.finding, options);
  } finally {
    await db.close();
  }
}

interface OpenedWithLog {
  readonly db: MetaDatabase;
  /** Content that only the log has is read from there. */
  readonly data: BlockDevice;
  /** The log is damaged: the check is of the database without it. */
  readonly finding: Finding | undefined;
}

/** Opens the database with what its redo log has. With repair, everything of the log is applied and the log is gone. */
async function openWithLog(
  runtime: FsckRuntime,
  devices: TargetDevices,
  superblock: SuperblockRecord,
  { repair }: FsckOptions,
): Promise<OpenedWithLog> {
  const { checksum, timers } = runtime;
  const { data, metaPath } = devices;
  const medium = metaMedium(devices);
  const tree = medium.open({ readOnly: repair !== true, judges: true });
  let db: LoggedDatabase;
  try {
    const options = { wanted: false, timers, data };
    db = await openLogged(medium, tree, metaPath, superblock, checksum, options);
  } catch (thrown) {
    if (!(thrown instanceof FsError) || thrown.code !== 'EIO') {
      await tree.close();
      throw thrown;
    }
    const text = `${thrown.message}; what a server committed in its last second is not in this check`;
    const finding: Finding = { kind: 'redo-log', text, repair: madeBefore('the log is left behind') };
    if (repair === true) await dropLog(tree, superblock, checksum);
    return { db: tree, data, finding };
  }
  if (repair !== true) return { db, data: readThrough(data, db.foundContent), finding: undefined };
  try {
    await applyFound(db, superblock, checksum);
    return { db, data, finding: undefined };
  } catch (thrown) {
    // The log is whole, and a device failed: it stays for the next start or repair.
    await db.close();
    throw thrown;
  }
}

function withFinding(report: FsckReport, finding: Finding, { repair }: FsckOptions): FsckReport {
  const isDone = repair === true;
  return {
    ...report,
    findings: [reported(finding, isDone ? finding.repair?.done : undefined), ...report.findings],
    repaired: report.repaired + (isDone ? 1 : 0),
    left: report.left + (isDone ? 0 : 1),
    repairable: report.repairable + (isDone ? 0 : 1),
  };
}

/** The device as it will be when the log's content is restored. */
function readThrough(data: BlockDevice, content: readonly ContentPiece[]): BlockDevice {
  if (content.length === 0) return data;
  const reading =
    (read: BlockDevice['read']): BlockDevice['read'] =>
    async (offset, target) => {
      await read(offset, target);
      for (const piece of content) {
        const start = Math.max(offset, piece.offset);
        const end = Math.min(offset + target.length, piece.offset + piece.bytes.length);
        if (start < end)
          target.set(piece.bytes.subarray(start - piece.offset, end - piece.offset), start - offset);
      }
    };
  return {
    path: data.path,
    sizeBytes: data.sizeBytes,
    memory: (lengthBytes) => data.memory(lengthBytes),
    write: (offset, chunks) => data.write(offset, chunks),
    writeDirect: (offset, bytes) => data.writeDirect(offset, bytes),
    flush: () => data.flush(),
    discard: (offset, lengthBytes) => data.discard(offset, lengthBytes),
    close: () => data.close(),
    read: reading((offset, target) => data.read(offset, target)),
    readOnce: reading((offset, target) => data.readOnce(offset, target)),
    readDirect: reading((offset, target) => data.readDirect(offset, target)),
  };
}

/** @throws FsError EBUSY */
function mayRepair(superblock: SuperblockRecord, { repair, force }: FsckOptions): void {
  if (repair !== true || superblock.clean || force === true) return;
  throw new FsError(
    'EBUSY',
    `${superblock.label} was not stopped cleanly: start its server and shut it down first, so that its clients recover; ` +
      `--force repairs it as it is`,
  );
}

interface Damaged {
  readonly findings: readonly Finding[];
  readonly pages?: number;
  readonly superblock?: SuperblockRecord;
  readonly guard?: WriteGuard | undefined;
}

/** Pages of the database are damaged: checks the parts that are whole. With repair, makes the target of these parts. */
async function fsckDamaged(
  runtime: FsckRuntime,
  devices: TargetDevices,
  options: FsckOptions,
  damaged: Damaged,
): Promise<FsckReport> {
  const { findings, pages = 0, superblock } = damaged;
  const { metaPath, metaSizeBytes } = devices;
  const look = async (): Promise<Salvage | undefined> =>
    devices.metaMedium !== undefined || options.salvaged === true
      ? undefined
      : await metaMedium(devices).withRawReader((read) =>
          salvage(read, metaPath, metaSizeBytes, runtime.checksum),
        );
  const found = await look();
  const header = found && (await checkHeader(runtime, devices.data, found.superblock));
  if (found === undefined || header !== undefined) return brokenReport(superblock, findings, pages);
  if (options.repair !== true) {
    const others = findings.filter(({ kind }) => kind !== 'free-list');
    return brokenReport(found.superblock, [...others, ...found.findings], pages);
  }
  mayRepair(found.superblock, options);
  const guard = damaged.guard ?? (await options.claim?.());
  const sure = await look();
  if (sure === undefined) return brokenReport(superblock, findings, pages);
  const mine = guard === undefined ? devices : guardedDevices(devices, guard);
  await applySalvage(metaMedium(mine), sure);
  const again = { ...options, salvaged: true, ...(guard === undefined ? {} : { claim: async () => guard }) };
  const report = await fsckTarget(runtime, devices, again);
  return {
    ...report,
    findings: [
      ...sure.findings.map((finding) => reported(finding, finding.repair?.done)),
      ...report.findings,
    ],
    repaired: report.repaired + sure.findings.length,
  };
}

async function withChecksums(
  runtime: FsckRuntime,
  db: MetaDatabase,
): Promise<Pick<FsckReport, 'superblock' | 'checksumsAdded' | 'checksumsLackRoom'>> {
  const added = await addChecksums(runtime, db);
  return {
    superblock: added.superblock,
    checksumsAdded: added.records,
    ...(added.full ? { checksumsLackRoom: true } : {}),
  };
}

interface Recognized {
  readonly superblock: SuperblockRecord;
  /** What is wrong with the data device's header. */
  readonly header: Finding | undefined;
}

/**
 * @returns a finding if the superblock is damaged. @throws FsError if this is no target, or the devices are of
 *   different targets.
 */
async function recognize(runtime: FsckRuntime, devices: TargetDevices): Promise<Recognized | Finding> {
  const { metaPath, metaSizeBytes } = devices;
  let superblock: SuperblockRecord | undefined;
  try {
    superblock = await metaMedium(devices).withRawReader((read) =>
      probeSuperblock(read, metaPath, metaSizeBytes, runtime.checksum),
    );
  } catch (thrown) {
    if (!(thrown instanceof FsError) || thrown.code !== 'EIO') throw thrown;
    return { kind: 'superblock', text: thrown.message };
  }
  if (superblock === undefined) {
    throw new FsError('ENODEV', `${metaPath} is not formatted as a Holdfast meta device`);
  }
  return { superblock, header: await checkHeader(runtime, devices.data, superblock) };
}

/** Checks all pages. A simulator's medium has no pages of lmdb. */
async function checkedPages(devices: TargetDevices, { progress }: FsckOptions): Promise<PagesReport> {
  if (devices.metaMedium !== undefined) return { findings: [], pages: 0 };
  const { metaPath, metaSizeBytes } = devices;
  return await metaMedium(devices).withRawReader((read) =>
    checkPages(read, metaPath, metaSizeBytes, {
      progress: (done, total) => progress?.('pages', done, total),
    }),
  );
}

/** The report for a database that cannot be opened: fsck looked at nothing behind these findings. */
function brokenReport(
  superblock: SuperblockRecord | undefined,
  findings: readonly Finding[],
  pages: number,
): FsckReport {
  return {
    superblock,
    counts: { ...noCounts(), pages },
    findings: findings.map((finding) => reported(finding)),
    repaired: 0,
    left: findings.length,
    repairable: findings.filter(({ repair }) => repair !== undefined).length,
    rounds: 1,
  };
}

/**
 * Checks the records of an open database, and the data device.
 * @throws FsError EPROTO, EINVAL as fsckTarget; EIO if a device fails.
 */
export async function checkTarget(
  runtime: FsckRuntime,
  raw: MetaDatabase,
  data: BlockDevice,
  options: Omit<FsckOptions, 'force' | 'claim'> = {},
): Promise<FsckReport> {
  let superblock: SuperblockRecord;
  try {
    superblock = storedSuperblock(raw, runtime.checksum);
  } catch (thrown) {
    if (!(thrown instanceof FsError) || thrown.code !== 'EIO') throw thrown;
    return brokenReport(undefined, [{ kind: 'superblock', text: thrown.message }], 0);
  }
  const db = checkedRecords(raw, runtime.checksum, superblock, { lenient: true });
  const header = await checkHeader(runtime, data, superblock);
  // If fsck cannot tell to which target the data device belongs, it changes nothing.
  const repair = options.repair === true && header === undefined;
  const repaired: Finding[] = [];
  let repairedCount = 0;
  for (let rounds = 1; ; rounds++) {
    const round = await checkOnce(runtime, db, superblock, options);
    if (header !== undefined) round.context.findings.add(header);
    const { repairs } = round.context.findings;
    if (!repair || repairs.length === 0 || rounds === ROUNDS_MAX) {
      if (options.checksums === true && header === undefined) await round.blocks(data);
      const kept = repaired.map((finding) => reported(finding, finding.repair?.done));
      return await finish(round.context, kept, repairedCount, rounds);
    }
    await applyRepairs(db, repairs);
    // A repair may have set a bit.
    superblock = storedSuperblock(raw, runtime.checksum);
    repairedCount += repairs.length;
    repaired.push(...repairs.slice(0, FINDINGS_KEPT - repaired.length));
  }
}

async function finish(
  context: FsckContext,
  repaired: readonly ReportedFinding[],
  repairedCount: number,
  rounds: number,
): Promise<FsckReport> {
  const { findings, counts, superblock } = context;
  const all = [...repaired, ...findings.kept.map((finding) => reported(finding))];
  return {
    superblock,
    counts,
    findings: await nameFindings(context, all),
    repaired: repairedCount,
    left: findings.count,
    repairable: findings.repairable,
    rounds,
  };
}

function reported({ kind, text, fid, repair }: Finding, done?: string): ReportedFinding {
  return {
    kind,
    text,
    ...(fid === undefined ? {} : { fid }),
    repairable: repair !== undefined,
    ...(done === undefined ? {} : { repaired: done }),
  };
}

/**
 * @returns what is wrong with the header of the data device. @throws FsError if the devices are of different targets,
 *   or it is not a Holdfast device.
 */
async function checkHeader(
  { checksum }: FsckRuntime,
  data: BlockDevice,
  superblock: SuperblockRecord,
): Promise<Finding | undefined> {
  if (data.sizeBytes < superblock.dataSizeBytes) {
    const text = `the data device ${data.path} is cut short: ${data.sizeBytes} bytes, made with ${superblock.dataSizeBytes}`;
    return { kind: 'data-header', text };
  }
  const block = Buffer.alloc(BLOCK_BYTES);
  await data.read(0, block);
  try {
    const header = decodeDataHeader(block, checksum, data.path);
    if (header.targetUuid === superblock.targetUuid && header.filesystemUuid === superblock.filesystemUuid) {
      return undefined;
    }
    throw new FsError(
      'EINVAL',
      `${data.path} is of target ${header.targetUuid}, the meta device of ${superblock.targetUuid}`,
    );
  } catch (thrown) {
    if (!(thrown instanceof FsError) || thrown.code !== 'EIO') throw thrown;
    return { kind: 'data-header', text: thrown.message };
  }
}

interface Round {
  readonly context: FsckContext;
  /** Reads the content. */
  blocks(data: BlockDevice): Promise<void>;
}

/** Checks all records once. */
async function checkOnce(
  runtime: FsckRuntime,
  db: MetaDatabase,
  superblock: SuperblockRecord,
  options: FsckOptions,
): Promise<Round> {
  const counts: FsckCounts = noCounts();
  const findings = new Findings();
  let inodes = 0;
  let blocks = 0;
  const context: FsckContext = {
    runtime,
    db,
    superblock,
    findings,
    counts,
    progress: (phase, done) => options.progress?.(phase, done, phase === 'blocks' ? blocks : inodes),
  };
  await checkKeys(context);
  const counters = readCounters(context);
  if (counters === undefined) findings.giveUp();
  inodes = counters?.inodes ?? 0;
  await checkAccess(context);
  const index = new InodeIndex();
  const owners = new BlockOwners(Math.floor(superblock.dataSizeBytes / BLOCK_BYTES));
  const content = await checkContent(context, index, owners);
  inodes = counts.inodes;
  const names = await checkNames(context, index);
  judgeGhosts(context, content.ghosts, names.namedGhosts);
  await checkTree(context, index);
  await checkShared(context, owners);
  await checkSpace(context, owners);
  counts.blocks = owners.blocks;
  blocks = owners.blocks;
  if (counters !== undefined) {
    const { lastObject } = content;
    checkCounters(context, counters, { lastObject, lastCookie: names.lastCookie });
    await checkClients(context, counters.lastTransno);
    await checkReplies(context, counters.lastTransno);
    await checkEvictions(context);
  }
  return { context, blocks: (data) => checkBlocks(context, index, owners.totalBlocks, data) };
}

/** Each repair is whole within one transaction; a transaction takes as many repairs as fit. */
async function applyRepairs(db: MetaDatabase, repairs: readonly Finding[]): Promise<void> {
  let tx = new RepairTx(db);
  for (const { repair } of repairs) {
    repair?.apply(tx);
    if (tx.size < CHANGES_AT_ONCE) continue;
    await db.commit((writer) => tx.write(writer));
    tx = new RepairTx(db);
  }
  if (tx.size > 0) await db.commit((writer) => tx.write(writer));
}
