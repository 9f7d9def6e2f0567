import assert from 'node:assert/strict';
import { test } from 'node:test';
import { flameSvg } from '../../bench/flame.js';

const frame = (functionName: string) => ({ functionName, url: 'file:///x.js' });

test('boxes are as wide as the time in a function and in what it calls; idle time is none', () => {
  const profile = {
    startTime: 0,
    nodes: [
      { id: 1, callFrame: frame('(root)'), children: [2, 5] },
      { id: 2, callFrame: frame('outer'), children: [3, 4] },
      { id: 3, callFrame: frame('inner<T>') },
      { id: 4, callFrame: frame('tiny') },
      { id: 5, callFrame: frame('(idle)') },
    ],
    samples: [3, 2, 5, 4, 3],
    timeDeltas: [500_000, 250_000, 9_000_000, 100, 249_900],
  };
  const svg = flameSvg('row, side', [profile]);
  assert.match(svg, /row, side: 1\.00 s of processor time/);
  assert.match(svg, /<title>outer: 100\.0 %<\/title>/);
  assert.match(svg, /<title>inner&lt;T>: 75\.0 %<\/title><rect x="0\.0" y="37" width="899\./);
  assert.doesNotMatch(svg, /tiny|idle/);
});
