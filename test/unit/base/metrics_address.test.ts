import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseMetricsAddress } from '../../../src/base/metrics_address.js';

test('an address without a host is on loopback', () => {
  assert.deepEqual(parseMetricsAddress('9464'), { host: '127.0.0.1', port: 9464 });
  assert.deepEqual(parseMetricsAddress('0.0.0.0:9464'), { host: '0.0.0.0', port: 9464 });
  assert.deepEqual(parseMetricsAddress('[::1]:9464'), { host: '::1', port: 9464 });
  assert.deepEqual(parseMetricsAddress('unix:/run/m.sock'), { host: '/run/m.sock', port: 0 });
});

test('anything else is no address', () => {
  for (const text of ['', 'host', 'host:', ':9464', '65536', 'unix:run', '::1:80', 'a b:80']) {
    assert.equal(parseMetricsAddress(text), undefined, text);
  }
});
