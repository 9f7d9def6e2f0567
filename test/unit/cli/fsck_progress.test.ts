/** The progress of fsck: a bar that is redrawn now and then on a terminal, a line for each phase elsewhere. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsckProgress } from '../../../src/cli/fsck_progress.js';

test('on a terminal a bar is drawn at most ten times a second, and goes in the end', () => {
  const written: string[] = [];
  let nowMs = 0;
  const progress = new FsckProgress({ isTTY: true, write: (text) => written.push(text) }, () => nowMs);
  progress.show('inodes', 0, 100);
  progress.show('inodes', 10, 100);
  nowMs = 100;
  progress.show('inodes', 50, 100);
  progress.show('names', 200, 100);
  progress.end();
  progress.end();
  assert.deepEqual(written, [
    `\r\x1b[Kinodes and content     [${' '.repeat(30)}] 0 %`,
    `\r\x1b[Kinodes and content     [${'#'.repeat(15)}${' '.repeat(15)}] 50 %`,
    `\r\x1b[Knames                  [${'#'.repeat(30)}] 100 %`,
    '\r\x1b[K',
  ]);
});

test('elsewhere each phase is a line', () => {
  const written: string[] = [];
  const progress = new FsckProgress({ write: (text) => written.push(text) }, () => 0);
  progress.show('pages', 1, 10);
  progress.show('pages', 2, 10);
  progress.show('blocks', 0, 0);
  progress.end();
  assert.deepEqual(written, ['holdfast: checking pages of the database\n', 'holdfast: checking checksums\n']);
});
