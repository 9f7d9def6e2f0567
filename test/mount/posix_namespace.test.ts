/** Names, attributes, links and extended attributes, on a native mount. */

import { namespaceSuite } from '../fixtures/posix_namespace.js';
import { posixSuite } from '../fixtures/posix_suite.js';
import { sharedCluster } from '../fixtures/shared_cluster.js';

namespaceSuite(posixSuite(sharedCluster()));
