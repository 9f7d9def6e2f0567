/**
 * The superblock in the layers of changes (tables.ts): what the target asks for joins the collecting layer, and the commit
 * of that layer writes it in the transaction of everything else that the layer has.
 *
 * Also owns FEATURE_ACCESS. A layer that changes the access table computes the bit from the keys that the table has after it, so
 * the transaction that puts the first entry sets the bit, and the one that removes the last clears it. A damaged entry is an
 * entry: the table keeps somebody out until somebody removes it.
 *
 * A change builds on the superblock that the database has when the commit begins, not on one that was kept: the redo log ends
 * by itself, and an earlier commit may have changed a bit since the change was asked for.
 *
 * Invariant: a superblock is written only together with a layer, and `durable` is the one of the last settled layer.
 */

import type { Checksum } from '../../runtime/ports.js';
import type { AccessRecord } from '../api.js';
import { accessNameOf, afterPrefix, bareKey, KEY } from '../format/keys.js';
import { damaged } from '../format/records.js';
import {
  decodeSuperblock,
  encodeSuperblock,
  FEATURE_ACCESS,
  FEATURE_REDO_LOG,
  type SuperblockRecord,
  withFeature,
} from '../format/superblock.js';
import type { MetaDatabase, Writer } from '../meta_medium.js';

export interface SuperblockChange {
  readonly softwareVersion?: string;
  readonly instance?: number;
  readonly clean: boolean;
  /** The redo log begins with this transaction; false: there is none from then on. */
  readonly hasLog: boolean;
}

/** By name; null: removed. */
export type AccessChanges = ReadonlyMap<string, AccessRecord | null>;

export class SuperblockLayer {
  readonly #db: MetaDatabase;
  readonly #checksum: Checksum;
  #durable: SuperblockRecord;
  #collecting: SuperblockChange | undefined;
  #sealed: SuperblockChange | undefined;
  #written: SuperblockRecord | undefined;

  /** @param db without the wrapper that checks records: a damaged entry of the access table counts. */
  constructor(db: MetaDatabase, checksum: Checksum, superblock: SuperblockRecord) {
    this.#db = db;
    this.#checksum = checksum;
    this.#durable = superblock;
  }

  /** As of the last commit, but for the bit of a redo log that has ended by itself since. */
  get durable(): SuperblockRecord {
    return this.#durable;
  }

  /** Goes with the collecting layer. @throws FsError EINVAL if the version is too long. */
  change(change: SuperblockChange): void {
    encodeSuperblock(changed(this.#durable, change), this.#checksum);
    this.#collecting = { ...this.#collecting, ...change };
  }

  seal(): void {
    this.#sealed = this.#collecting;
    this.#collecting = undefined;
  }
  /** @param access the changes of the sealed layer. */
  write(writer: Writer, access: AccessChanges): void {
    const change = this.#sealed;
    if (change === undefined && access.size === 0) return;
    const before = storedSuperblock(this.#db, this.#checksum);
    const after = change === undefined ? before : changed(before, change);
    const featuresIncompat =
      access.size === 0
        ? after.featuresIncompat
        : withFeature(after.featuresIncompat, FEATURE_ACCESS, hasAccess(this.#db, access));
    if (change === undefined && featuresIncompat === before.featuresIncompat) return;
    this.#written = { ...after, featuresIncompat };
    writer.put(bareKey(KEY.superblock), encodeSuperblock(this.#written, this.#checksum));
  }
  /** The sealed layer is durable. */
  settle(): void {
    this.#durable = this.#written ?? this.#durable;
    this.#written = undefined;
    this.#sealed = undefined;
  }
}

function changed(before: SuperblockRecord, { hasLog, ...fields }: SuperblockChange): SuperblockRecord {
  const featuresIncompat = withFeature(before.featuresIncompat, FEATURE_REDO_LOG, hasLog);
  return { ...before, ...fields, featuresIncompat };
}

/** @throws FsError EIO if it is damaged or missing; EPROTO. */
export function storedSuperblock(db: Pick<MetaDatabase, 'get'>, checksum: Checksum): SuperblockRecord {
  const value = db.get(bareKey(KEY.superblock));
  if (value === undefined) throw damaged('superblock, which is missing');
  return decodeSuperblock(value, checksum, 'the meta device');
}

/**
 * Whether the access table has entries, whole or not.
 * @param db without the wrapper that checks records.
 * @param changes not in the database yet.
 */
export function hasAccess(db: MetaDatabase, changes: AccessChanges = new Map()): boolean {
  for (const record of changes.values()) if (record !== null) return true;
  const prefix = bareKey(KEY.access);
  for (const { key } of db.range(prefix, afterPrefix(prefix))) {
    if (!changes.has(accessNameOf(key))) return true;
  }
  return false;
}
