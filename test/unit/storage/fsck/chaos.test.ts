/**
 * Damage by chance. Whatever is done to the bytes of the database, the check ends in order and says something; whatever is
 * done to records, a repair leaves nothing that a second one would repair.
 */

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { FsError } from '../../../../src/base/errno.js';
import { LMDB_PAGE_BYTES } from '../../../../src/storage/meta/meta_probe.js';
import { fsckWorld } from '../../../worlds/fsck_world.js';

/** A thousand found what there was to find; these keep it found. */
const SEEDS = 50;

/** A small generator of numbers: the same seed, the same damage. */
function chance(seed: number): (below: number) => number {
  let state = seed * 2654435761 + 1;
  return (below) => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0;
    const mixed = Math.imul(state ^ (state >>> 13), 0x297a2d39);
    return ((mixed ^ (mixed >>> 16)) >>> 0) % below;
  };
}

test('bytes of the database overwritten by chance: the check ends, with findings or one line', async (t) => {
  const world = await fsckWorld(t);
  const { metaPath } = world.target.devices;
  const sound = readFileSync(metaPath);
  // Those that the last transaction left in use; the newer meta page says which is the last.
  const pages = 1 + Math.max(sound.readUInt32LE(144), sound.readUInt32LE(LMDB_PAGE_BYTES + 144));
  let refused = 0;
  let found = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const next = chance(seed);
    const damaged = Buffer.from(sound);
    for (let count = 1 + next(8); count > 0; count--) {
      const page = next(pages) * LMDB_PAGE_BYTES;
      // Headers and the places of records are where damage does most.
      const at = page + (next(2) === 0 ? next(64) : next(LMDB_PAGE_BYTES));
      const length = 1 + next(16);
      for (let index = at; index < at + length; index++) damaged[index] = next(256);
    }
    writeFileSync(metaPath, damaged);
    try {
      const report = await world.fsck({ repair: true, force: true });
      if (report.left + report.repaired > 0) found++;
      assert.equal((await world.fsck({ repair: true, force: true })).repaired, 0, `seed ${seed}`);
    } catch (thrown) {
      assert.ok(thrown instanceof FsError, `seed ${seed}: ${thrown}`);
      assert.ok(!thrown.message.includes('\n'), `seed ${seed}: ${thrown.message}`);
      refused++;
    }
  }
  assert.ok(found > SEEDS / 3, `damage was found ${found} times, refused ${refused} times, ${pages} pages`);
});

test('records changed by chance: what a repair leaves, a second one does not repair', async (t) => {
  const world = await fsckWorld(t);
  const { metaPath } = world.target.devices;
  const sound = readFileSync(metaPath);
  let repaired = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const next = chance(seed);
    writeFileSync(metaPath, sound);
    await world.damage((writer, db) => {
      const all = [...db.range(Buffer.from([2]), Buffer.from([0xff]))];
      for (let count = 1 + next(4); count > 0; count--) {
        const { key, value } = all[next(all.length)] ?? assert.fail('there are records');
        const other = all[next(all.length)] ?? assert.fail('there are records');
        const how = next(4);
        if (how === 0) writer.remove(key);
        else if (how === 1) {
          // Mostly where it means something, and mostly to something that could be.
          const changed = Buffer.from(value);
          changed[next(Math.min(changed.length, 48))] = next(2) === 0 ? next(24) : next(256);
          writer.put(key, changed);
        } else if (how === 2) writer.put(key, Buffer.from(value.subarray(0, next(value.length + 1))));
        else if (key[0] === other.key[0]) writer.put(key, Buffer.from(other.value));
      }
    });
    const before = await world.fsck();
    const first = await world.fsck({ repair: true });
    const second = await world.fsck({ repair: true });
    const lines = world.lines(first);
    assert.deepEqual(
      [second.repaired, world.lines(second)],
      [0, lines.slice(first.repaired)],
      `seed ${seed}: ${world.lines(before).join('\n')}\n--\n${lines.join('\n')}`,
    );
    repaired += first.repaired;
  }
  assert.ok(repaired > SEEDS, `${repaired} repairs`);
});
