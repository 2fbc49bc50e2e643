// Package testserver runs real etcd, Consul, ZooKeeper and Redis servers as local processes for tests.
//
// A package's tests share one server of each kind, which is started by the first test that asks and stopped after the
// last one:
//
//	var servers testserver.Pool
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(servers.M(m)) }
//
//	func TestPut(t *testing.T) {
//		s := servers.Shared(t, testserver.Spec{Store: testserver.Etcd})
//		client := dial(s.Addrs())
//		root := testserver.UniqueName(t) // the server is shared, so keep to a name of your own
//		…
//	}
//
// A test that kills, pauses or restarts takes a server of its own:
//
//	s := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Persist: true})
//	s.Kill()               // SIGKILL; the port now refuses connections
//	s.Restart(t.Context()) // the same port and data; returns once the server answers
//
// A Spec also asks for three nodes, for Redis Sentinel and Redis Cluster, for TLS with certificates of clients, and for users with rights, one of whom may do
// little.
//
// Nodes that go on, and that clients reach, but not each other, take networks of their own (Linux, as root):
//
//	s := testserver.Start(t, testserver.Spec{Store: testserver.Etcd, Nodes: 3, Apart: true})
//	s.Partition(0) // from the others
//	s.Heal()
//
// A network that fails is a Proxy between the client and the server:
//
//	p := testserver.NewProxy(t, s.Addrs()[0])
//	client := dial(p.Addr())
//	lost := p.LoseReply(func(request []byte) bool { return bytes.Contains(request, []byte(root+"/key")) })
//	put(client, root+"/key") // is done by the server, and fails at the client
//	<-lost
//
// Servers run in their default configuration, on free ports of 127.0.0.1, with data in a temporary directory. What
// differs from the defaults is only what several servers on one machine cannot share (addresses, directories,
// ZooKeeper's admin page, Consul's DNS and gRPC ports) and Consul's look-up of newer versions on the internet.
//
// On Linux the servers die with the test process, even when that is killed. The directory that a killed process leaves
// behind is removed by the next one.
//
// # Environment
//
//	KV_TEST_PROVIDER            auto (the default) and local: run processes. containers: use only the servers named by
//	                            KV_TEST_<STORE>_URL, as the integration module sets them. none: run no server.
//	KV_TEST_ETCD_URL            a running server to use in place of a shared one in default configuration, such as
//	                            etcd://127.0.0.1:2379. _CONSUL_, _ZOOKEEPER_ and _REDIS_ alike.
//	KV_TEST_REQUIRE             stores, separated by commas, that have to run ("all" for every one): a test that cannot
//	                            have its server then fails. Without it, the test is skipped and says what is missing.
//	KV_TEST_CACHE               where built servers are kept; by default kv-test in os.UserCacheDir.
//	KV_TEST_ETCD_BIN            a server binary to use in place of the built one. _CONSUL_ and _REDIS_ alike, and
//	                            _ETCDCTL_ for the tool.
//	KV_TEST_ZOOKEEPER_CLASSPATH ZooKeeper's jars, in place of the Debian package's.
//
// etcd and Consul are built from the modules below integration/servers, at the versions pinned there, once a machine;
// Redis and ZooKeeper come from the operating system's packages. So do the stores' own tools (Tool). "go run
// ./internal/testserver/install" builds what is missing: Consul takes minutes. A test builds only what KV_TEST_REQUIRE
// names, and is skipped otherwise.
//
// With -short no server is run, unless it is required.
package testserver
