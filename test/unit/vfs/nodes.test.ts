import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import type { Fid } from '../../../src/base/ids.js';
import { NodeTable } from '../../../src/vfs/nodes.js';

const F = (2 ** 43 + 77) as Fid;

test('a node is dropped when the kernel has returned every reference', () => {
  const nodes = new NodeTable();
  nodes.lookedUp(F, true);
  nodes.lookedUp(F, false);
  nodes.lookedUp(F, true);
  nodes.forget(F, 2);
  const before = nodes.size;
  nodes.forget(F, 1);
  assert.deepEqual([before, nodes.size, nodes.dropAttrs(F)], [1, 0, 'none']);
});

test('attributes are dropped once, and are unproven until a request names the inode', () => {
  const nodes = new NodeTable();
  nodes.lookedUp(F, true);
  const first = [nodes.dropAttrs(F), nodes.dropAttrs(F)];
  nodes.lookedUp(F, true);
  nodes.proven(F);
  const second = [nodes.dropAttrs(F), nodes.dropAttrs(F)];
  nodes.gaveAttrs(F);
  assert.deepEqual([first, second, nodes.dropAttrs(F)], [['unproven', 'none'], ['held', 'none'], 'held']);
});

test('an entry that did not fit a READDIRPLUS reply leaves no reference', () => {
  const nodes = new NodeTable();
  nodes.lookedUp(F, true);
  assert.deepEqual(
    [nodes.refersTo(F), nodes.forget(F, 1), nodes.refersTo(F), nodes.size],
    [true, true, false, 0],
  );
});

test('a reference is there until the kernel has given all of them back', () => {
  const nodes = new NodeTable();
  nodes.gaveAttrs(F);
  const seen = [nodes.refersTo(F)];
  nodes.lookedUp(F, false);
  nodes.lookedUp(F, false);
  seen.push(nodes.forget(F, 1), nodes.refersTo(F), nodes.forget(F, 1), nodes.refersTo(F));
  assert.deepEqual(seen, [false, false, true, true, false]);
});

test('an inode known from before a takeover of the mount is tracked and forgotten', () => {
  const nodes = new NodeTable();
  nodes.gavePages(F);
  const had = nodes.hasPages(F);
  nodes.forget(F, 5);
  assert.deepEqual([had, nodes.size], [true, 0]);
});

test('flags and counts do not disturb each other, whatever the order', () => {
  const action = fc.constantFrom(
    'look',
    'lookCached',
    'forget',
    'prove',
    'attrs',
    'pages',
    'dropAttrs',
    'dropPages',
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
      const nodes = new NodeTable();
      let count = 0;
      let attrs = false;
      let pages = false;
      nodes.lookedUp(F, false);
      count = 1;
      for (const name of actions) {
        if (name === 'look' || name === 'lookCached') {
          nodes.lookedUp(F, name === 'lookCached');
          count += 1;
          attrs ||= name === 'lookCached';
        } else if (name === 'forget') {
          if (count === 1) continue;
          nodes.forget(F, 1);
          count -= 1;
        } else if (name === 'prove') nodes.proven(F);
        else if (name === 'attrs') {
          nodes.gaveAttrs(F);
          attrs = true;
        } else if (name === 'pages') {
          nodes.gavePages(F);
          pages = true;
        } else if (name === 'dropAttrs') {
          assert.equal(nodes.dropAttrs(F) !== 'none', attrs);
          attrs = false;
        } else {
          assert.equal(nodes.dropPages(F), pages);
          pages = false;
        }
        assert.equal(nodes.hasPages(F), pages);
      }
      nodes.forget(F, count);
      assert.equal(nodes.size, 0);
    }),
  );
});
