import assert from 'node:assert/strict';
import test from 'node:test';
import type { Fid } from '../../../src/base/ids.js';
import type { FsClient } from '../../../src/client/api.js';
import { INIT_FLAG } from '../../../src/fuse/constants.js';
import type { EntryOut, NegativeEntry } from '../../../src/fuse/handlers.js';
import { createVfs, type Vfs } from '../../../src/vfs/vfs.js';
import {
  attrOf,
  DrivenNotifier,
  knownOf,
  requestOf,
  scriptedClient,
} from '../../fixtures/scripted_client.js';

const NEW_KERNEL = { minor: 45, flags: INIT_FLAG.DIRECT_IO_ALLOW_MMAP, maxWrite: 1 << 20 };
const F = 20 as Fid;
const G = 21 as Fid;

function mounted(script: Partial<FsClient>, negotiated = NEW_KERNEL): { vfs: Vfs; kernel: DrivenNotifier } {
  const vfs = createVfs();
  const kernel = new DrivenNotifier();
  vfs.attach(scriptedClient(script));
  vfs.handlers.init?.(negotiated);
  vfs.bind(kernel);
  return { vfs, kernel };
}

function validity(entry: EntryOut | NegativeEntry): readonly number[] {
  return entry.attr === null ? [entry.entryValidSec] : [entry.entryValidSec, entry.attrValidSec];
}

test('what is under a lock is believed for long, what is not is asked for each time', async () => {
  const { vfs } = mounted({
    lookup: (_op, _parent, name) => {
      if (name === 'no') return { attr: null, nameCacheable: true };
      if (name === 'unlocked no') return { attr: null, nameCacheable: false };
      return knownOf(F, name === 'locked');
    },
  });
  const names = ['locked', 'unlocked', 'no', 'unlocked no'];
  const answers = await Promise.all(names.map((name) => vfs.handlers.lookup(requestOf(), 1, name)));
  assert.deepEqual(answers.map(validity), [[3600, 3600], [0, 0], [3600], [0]]);
});

test('a kernel without epochs believes no names, but attributes', async () => {
  const { vfs, kernel } = mounted({ lookup: () => knownOf(F) }, { ...NEW_KERNEL, minor: 43 });
  const entry = await vfs.handlers.lookup(requestOf(), 1, 'f');
  await vfs.kernelCache.dropNames();
  assert.deepEqual([validity(entry), kernel.taken()], [[0, 3600], []]);
});

test('only attributes that the kernel was given are invalidated, after the replies that carried them', async () => {
  const { vfs, kernel } = mounted({ getattr: (_op, fid) => knownOf(fid, fid === F) });
  await vfs.handlers.getattr(requestOf(), F, undefined);
  await vfs.handlers.getattr(requestOf(), G, undefined);
  await vfs.kernelCache.dropAttrs([F, G, 99 as Fid]);
  const first = kernel.taken();
  await vfs.kernelCache.dropAttrs([F, G, 99 as Fid]);
  assert.deepEqual([first, kernel.taken()], [['flush', `attr ${F}`], []]);
});

test('names are invalidated once after they were handed out', async () => {
  const { vfs, kernel } = mounted({ lookup: () => ({ attr: null, nameCacheable: true }) });
  await vfs.kernelCache.dropNames();
  await vfs.handlers.lookup(requestOf(), 1, 'f');
  await vfs.kernelCache.dropNames();
  await vfs.kernelCache.dropNames();
  assert.deepEqual(kernel.taken(), ['flush', 'epoch']);
});

test('an answer that a drop overtook is not believed', async () => {
  let answer: (known: ReturnType<typeof knownOf>) => void = () => undefined;
  const later = (): Promise<ReturnType<typeof knownOf>> =>
    new Promise((resolve) => {
      answer = resolve;
    });
  const { vfs } = mounted({ lookup: later, getattr: later });

  const lookup = vfs.handlers.lookup(requestOf(), 1, 'f');
  await vfs.kernelCache.dropAttrs([G]);
  answer(knownOf(F));
  const attrsDropped = validity(await lookup);

  const lookupAgain = vfs.handlers.lookup(requestOf(), 1, 'f');
  await vfs.kernelCache.dropNames();
  answer(knownOf(F));
  const namesDropped = validity(await lookupAgain);

  const stat = vfs.handlers.getattr(requestOf(), F, undefined);
  answer(knownOf(F)); // formed before the drop, sent after it
  void vfs.kernelCache.dropAttrs([F]);
  const formedBefore = (await stat).attrValidSec;

  const undisturbed = vfs.handlers.getattr(requestOf(), F, undefined);
  answer(knownOf(F));
  assert.deepEqual(
    { attrsDropped, namesDropped, formedBefore, undisturbed: (await undisturbed).attrValidSec },
    { attrsDropped: [3600, 0], namesDropped: [0, 3600], formedBefore: 0, undisturbed: 3600 },
  );
});

test('attributes of an inode that may not have reached the kernel are chased: by its names, and again at its open', async () => {
  const { vfs, kernel } = mounted({ lookup: () => knownOf(F), open: () => 5 as never });
  await vfs.handlers.lookup(requestOf(), 1, 'f');
  await vfs.kernelCache.dropAttrs([F]);
  const drop = kernel.taken();
  await vfs.handlers.open(requestOf(), F, 0);
  const open = kernel.taken();
  await vfs.handlers.open(requestOf(), F, 0);
  assert.deepEqual([drop, open, kernel.taken()], [['flush', `attr ${F}`, 'epoch'], [`attr ${F}`], []]);
});

test('before the mount and after it there is nothing to invalidate', async () => {
  const vfs = createVfs();
  const calls = async (): Promise<void> => {
    await vfs.kernelCache.dropAttrs([F]);
    await vfs.kernelCache.dropNames();
    await vfs.kernelCache.dropPages(F);
  };
  await calls();
  const kernel = new DrivenNotifier();
  vfs.attach(scriptedClient({ lookup: () => knownOf(F), read: () => [] }));
  vfs.handlers.init?.(NEW_KERNEL);
  vfs.bind(kernel);
  await vfs.handlers.lookup(requestOf(), 1, 'f');
  await vfs.handlers.read(requestOf(), F, { fh: 1, offset: 0, sizeBytes: 4096, flags: 0 });
  vfs.handlers.destroy?.();
  await calls();
  assert.deepEqual(kernel.taken(), []);
});

function readerOf(
  script: Partial<FsClient> = {},
): { reads: number[]; read: (offset: number, length?: number, signal?: AbortSignal) => unknown } & ReturnType<
  typeof mounted
> {
  const reads: number[] = [];
  const all = mounted({
    read: (_op, _fh, _fid, offset) => {
      reads.push(offset);
      return [];
    },
    ...script,
  });
  const read = (offset: number, length = 4096, signal?: AbortSignal): unknown =>
    all.vfs.handlers.read(requestOf(signal), F, { fh: 1, offset, sizeBytes: length, flags: 0 });
  return { reads, read, ...all };
}

test('pages are dropped when the kernel has read some, and only then', async () => {
  const { vfs, kernel, read } = readerOf();
  await vfs.kernelCache.dropPages(F);
  const before = kernel.taken();
  read(0);
  const drop = vfs.kernelCache.dropPages(F);
  const during = kernel.taken();
  await kernel.endData();
  await drop;
  await vfs.kernelCache.dropPages(F);
  assert.deepEqual([before, during, kernel.taken()], [[], ['flush', `data ${F} 0+0`], []]);
});

test('ranges of a file are dropped as asked for, and the rest of it later still', async () => {
  const { vfs, kernel, read } = readerOf();
  read(0);
  void vfs.kernelCache.dropPages(F, [
    { start: 0, end: 4096 },
    { start: 8192, end: 1 << 20 },
  ]);
  const ranges = kernel.taken();
  void vfs.kernelCache.dropPages(F);
  const whole = kernel.taken();
  assert.deepEqual(
    [ranges, whole],
    [
      ['flush', `data ${F} 0+4096`, `data ${F} 8192+${(1 << 20) - 8192}`],
      ['flush', `data ${F} 0+0`],
    ],
  );
});

test('pages read while they are dropped are dropped at the next time again', async () => {
  const { vfs, kernel, read } = readerOf();
  read(0);
  const drop = vfs.kernelCache.dropPages(F);
  read(0);
  await kernel.endData();
  await drop;
  kernel.taken();
  void vfs.kernelCache.dropPages(F);
  assert.deepEqual(kernel.taken(), ['flush', `data ${F} 0+0`]);
});

test('a read whose answer is pending when the drop begins is waited for by the kernel, because it was marked before', async () => {
  const { vfs, kernel, read } = readerOf({ read: () => new Promise(() => undefined) });
  read(0);
  void vfs.kernelCache.dropPages(F);
  assert.deepEqual(kernel.taken(), ['flush', `data ${F} 0+0`]);
});

test('a read is not answered before attributes that no lock keeps true are overtaken in the kernel', async () => {
  const content = Buffer.from('content');
  const { vfs, kernel, read } = readerOf({
    read: () => [content],
    getattr: (_op, fid) => knownOf(fid, false),
  });
  assert.deepEqual(read(0), [content]);
  await vfs.handlers.getattr(requestOf(), F, undefined);
  const answer = read(0);
  assert.deepEqual([answer instanceof Promise, kernel.taken()], [true, [`attr ${F}`]]);
  // Nor is another one that comes meanwhile.
  const meanwhile = read(0);
  assert.deepEqual([meanwhile instanceof Promise, kernel.taken()], [true, []]);
  // The client's memory is used again as soon as its turn is over.
  content.fill(0);
  for (const bytes of [answer, meanwhile]) {
    assert.equal(Buffer.concat((await bytes) as Uint8Array[]).toString(), 'content');
  }
  // Once is enough, and what is under a lock is taken back with the lock.
  assert.deepEqual([read(0), kernel.taken()], [[content], []]);
});

test('direct reads neither wait for a drop nor leave pages', async () => {
  const { vfs, kernel } = mounted({ read: () => [] });
  await vfs.handlers.read(requestOf(), F, { fh: 1, offset: 0, sizeBytes: 4096, flags: 0, direct: true });
  await vfs.kernelCache.dropPages(F);
  assert.deepEqual(kernel.taken(), []);
});

test('a write past the page cache takes back pages that a read brought meanwhile, before it is answered', async () => {
  const { vfs, kernel, read } = readerOf({ write: (_op, _fh, _fid, _offset, data) => data.length });
  const write = (flags: number, writeback = false): unknown =>
    vfs.handlers.write(requestOf(), F, {
      fh: 1,
      offset: 5000,
      data: new Uint8Array(10),
      flags,
      writeback,
      killSuidgid: false,
    });
  const withoutPages = write(1);
  read(0);
  kernel.taken();
  const mapped = write(2, true);
  const overwrite = write(1);
  const append = write(0o2001);
  const asked = kernel.taken();
  await kernel.endData();
  assert.deepEqual(
    [withoutPages, mapped, await overwrite, await append, asked],
    [10, 10, 10, 10, ['flush', `data ${F} 5000+10`, 'flush', `data ${F} 0+0`]],
  );
});

test('attributes that come with a lookup of a known inode are invalidated without touching names', async () => {
  const { vfs, kernel } = mounted({
    lookup: () => ({ attr: attrOf(F), attrCacheable: true, nameCacheable: false }),
    getattr: () => knownOf(F),
  });
  await vfs.handlers.lookup(requestOf(), 1, 'f');
  await vfs.handlers.getattr(requestOf(), F, undefined);
  await vfs.kernelCache.dropAttrs([F]);
  assert.deepEqual(kernel.taken(), ['flush', `attr ${F}`]);
});
