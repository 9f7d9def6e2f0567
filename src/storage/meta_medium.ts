/**
 * What the store needs of the meta device: one ordered tree of records with durable transactions, and the bytes below
 * it, which are looked at before anything trusts them (meta_probe.ts). In use it is lmdb on the raw device
 * (lmdb_store.ts); a simulator brings its own, with the crashes that a real one has.
 */

/** Fills target from offset, whole. */
export type ReadAt = (offset: number, target: Buffer) => Promise<void>;

export interface Writer {
  /** `value` must not change until the commit is over. */
  put(key: Buffer, value: Buffer): void;
  remove(key: Buffer): void;
}

export interface MetaDatabase {
  /** @returns a view that the next call overwrites. */
  get(key: Buffer): Buffer | undefined;
  /** Brings the pages of these records into memory in the background: a get() of what is not there blocks everything. */
  prefetch(keys: readonly Buffer[]): void;
  /** Records with start <= key < end, in key order, at most limit. Keys and values are copies. */
  range(start: Buffer, end: Buffer, limit?: number): Iterable<{ key: Buffer; value: Buffer }>;
  /** All that `write` puts and removes, in one transaction. Resolves when it is durable. @throws FsError EIO */
  commit(write: (writer: Writer) => void): Promise<void>;
  /** Pages of the device in use: the tree's, the free list's own, and the two meta pages. */
  usedPages(): number;
  /** Waits for a commit under way. */
  close(): Promise<void>;
}

export interface MetaMedium {
  /**
   * Only of a device that was looked at by probeSuperblock before, or wiped by mkfs.
   * judges: the caller looks at all records, and finds out itself what is damaged and what is missing.
   */
  open(options?: { readonly readOnly?: boolean; readonly judges?: boolean }): MetaDatabase;
  /** Reads the device past the database. */
  withRawReader<R>(use: (read: ReadAt) => Promise<R>): Promise<R>;
  /** Writes these pieces past the database, durably. */
  writeRaw(pieces: readonly { readonly offset: number; readonly bytes: Buffer }[]): Promise<void>;
}
