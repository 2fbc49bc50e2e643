// Package rediskv stores keys in Redis 7.0 or later (or Valkey): a single server, one behind Sentinel, or a Cluster.
//
//	client := redis.NewClient(&redis.Options{Addr: "10.0.0.1:6379"})
//	store := kv.New(rediskv.New(client, rediskv.Options{Root: "shop"}))
//
// or from a URL:
//
//	redis://[[user]:password@]host[:port]/root[?parameters]
//	redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/root[?parameters]
//	redis+cluster://[[user]:password@]host[:port][,host[:port]…]/{root}[?parameters]
//	rediss://…, rediss+sentinel://…, rediss+cluster://… with TLS
//
// The port is 6379, or 26379 for Sentinel, if none is given, and the host 127.0.0.1 if there is none. The path is the root
// below which all keys lie: /shop is "shop", and //shop is "/shop", for trees that were written with a leading slash. It is
// never a database's number, as in the URLs of many Redis clients: /1 is the root "1", and ?db=1 the database.
// Parameters:
//
//	db                 the database's number, 0; not on Cluster
//	master             Sentinel's name for the servers, mymaster; only the sentinels of the URL are asked, so name all
//	sentinel_user      \ where Sentinel wants credentials of its own
//	sentinel_password  /
//	meta               the bookkeeping's name, the root followed by "=kv"
//	pool_size          connections to a server, go-redis's default
//	dial_timeout       5s; see Options.DialTimeout
//	watch_buffer       in bytes, 4 MiB; see Options.WatchBuffer
//	max_value_bytes    512 MiB; see Options.MaxValueBytes
//	history_entries    100000; see Options.History
//	history_age        1h
//	history_bytes      32 MiB
//
// Client certificates and authorities go into [Driver].TLS.
//
// # What lies where
//
// The key "a/b" below the root "shop" is the string "shop/a/b" in Redis, and its bytes are the value: redis-cli GET and
// SET work on it. Beside the root lies the bookkeeping, "shop=kv/…": a record for each key (revision, expiry, a digest of
// the value), the ordered set of the keys, that of the expiries, a stream with the latest changes, and the queues of
// locks. Every write is one script, so it is all or nothing, and the server's clock times it.
//
// On Redis Cluster everything of one root has to be in one slot: give the root a hash tag, "{shop}". Several roots spread
// over the servers.
//
// # What it promises
//
// Reads come from the primary. A watch delivers every revision, in order, and resumes in another process while the log
// reaches back (Options.History). TTLs are kept to the millisecond, by the server's clock. Transactions are one step;
// DeletePrefix is one step for each 500 keys, and a list is not a snapshot. Locks are fair.
//
// What Redis does not promise, this package cannot: a primary that fails takes with it what it had not replicated,
// acknowledged writes and held locks included, and a server without persistence comes back empty. Watches notice, and end
// with ErrHistoryLost. Revisions and fencing tokens are at least the server's time in microseconds, so they go on growing
// unless that clock was set back; DurableFence is unset for that reason. After a loss that any client still running
// remembers, no lock is granted before the lease of its former holder must have ended.
//
// # Other programs
//
// What another program does to a key below the root is noticed by the next read or conditional write of that key. It then
// gets a revision and makes an event. With keyspace notifications on (notify-keyspace-events at least "K$g", best "KA";
// this package probes for them and never configures the server) it is noticed at once, while a watch or a list has been
// asked for: Capabilities().ForeignEvents. Without them, List and watches do not see keys that nobody has read, until
// Adopt looks for them with one SCAN. When the bookkeeping is made, the keys that are there are adopted.
//
// A SET of the very bytes that are there cannot be noticed. A key that holds a list or another type is absent to reads, and
// writes to it fail with ErrInvalid.
//
// # Rights
//
// A user (ACL SETUSER) who writes needs, for the root "app":
//
//	~app/* ~app=kv/* &app=kv/* &__keyspace@0__:app/* &__keyspace@0__:app=kv/probe
//	+evalsha +eval +evalsha_ro +eval_ro +time +type +get +mget +set +mset +del +exists +pexpiretime +pexpireat +pexpire +pttl
//	+hget +hmget +hset +hdel +hexists +zadd +zrem +zrange +zcard +zrank +zscore +xadd +xtrim +xrange +xlen
//	+publish +subscribe +psubscribe +unsubscribe +ping +scan
//
// and on Cluster +spublish +ssubscribe +cluster as well. Grant all of it or nothing: a script that is stopped half way by a
// missing right leaves what it did. Without rights to channels, watches and waits for locks poll twice a second, and those of
// others notice what the user writes or releases within half a minute. A user who only reads needs
//
//	%R~app/* %R~app=kv/* &app=kv/* +evalsha_ro +eval_ro +time +get +mget +exists +hget +hmget +hexists +zrange +xrange
//	+subscribe +unsubscribe +ping
//
// and gets ErrPermission for a key that another program has changed since, because it cannot adopt it.
//
// The server must not evict keys by itself (maxmemory-policy noeviction, its default): the bookkeeping would go too.
//
// # The client
//
// Any redis.UniversalClient will do but a Ring. go-redis repeats requests whose reply was lost; those of a Store that
// write it does not, whatever its options say. It does not look at a context while it waits for a reply, so a request
// under a context that can be cancelled is made by a goroutine of the Store's, unless the client dials with a [Dialer].
// Reads do without that goroutine too if the client's option ContextTimeoutEnabled is set. go-redis prints to standard
// error when a connection fails or Sentinel speaks; redis.SetLogger, which is for the whole process, changes that. Stores
// that are opened from URLs have a Dialer, and print nothing.
package rediskv
