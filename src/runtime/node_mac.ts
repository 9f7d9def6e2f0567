/** HMAC-SHA-256 by node's OpenSSL. */

import { createHmac } from 'node:crypto';
import type { Mac } from './ports.js';

export const nodeMac: Mac = {
  hmacSha256: (key, data) => createHmac('sha256', key).update(data).digest(),
};
