import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sharesOf } from '../../bench/profile_shares.js';

const frame = (functionName: string) => ({ functionName, url: 'file:///x.js' });

const PROFILE = {
  startTime: 1000,
  nodes: [
    { id: 1, callFrame: frame('(root)'), children: [2, 3, 4, 5] },
    { id: 2, callFrame: frame('send'), children: [6, 7] },
    { id: 3, callFrame: frame('(idle)') },
    { id: 4, callFrame: frame('(garbage collector)') },
    { id: 5, callFrame: frame('(program)') },
    { id: 6, callFrame: frame('write') },
    { id: 7, callFrame: frame('pack') },
  ],
  samples: [6, 3, 6, 4, 5, 7, 6],
  timeDeltas: [1000, 500, 300, 100, 50, 50, 9000],
};

test('only samples of the row count, and shares are those of the busy time', () => {
  // The first sample ends at 2000, the last begins at 3000.
  const shares = sharesOf([PROFILE], 'client', [{ fromUs: 2000, toUs: 3000 }]);
  assert.deepEqual(shares, {
    side: 'client',
    busy: 0.5,
    garbage: 0.2,
    outside: 0.1,
    functions: [
      { name: 'write < send', share: 0.6 },
      { name: 'pack < send', share: 0.1 },
    ],
  });
});

test('two runs of a row, and two processes of a side, count together; a side that did not run has no shares', () => {
  const runs = [
    { fromUs: 1000, toUs: 2000 },
    { fromUs: 2000, toUs: 3000 },
  ];
  const shares = sharesOf([PROFILE, PROFILE], 'server', runs);
  assert.equal(shares?.busy, 1.5);
  assert.equal(sharesOf([PROFILE], 'server', [{ fromUs: 20_000, toUs: 30_000 }]), undefined);
  assert.equal(sharesOf([], 'server', runs), undefined);
});
