package integration

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// BenchmarkRedis compares with bare commands, which know of no revisions and no
// events: GET, SET, a script that compares the value before it sets it, SCAN
// with MGET and a sort, and a message that is published after the SET.
func BenchmarkRedis(b *testing.B) {
	srv := servers.Shared(b, testserver.Spec{Store: testserver.Redis})
	c := redis.NewClient(&redis.Options{Addr: srv.Addrs()[0]})
	b.Cleanup(func() { c.Close() })
	root, ctx := testserver.UniqueName(b), context.Background()
	s := kv.New(rediskv.New(c, rediskv.Options{Root: root}))
	b.Cleanup(func() { s.Close() })
	name, channel := root+"-raw/key", root+"-raw/events"
	swap := redis.NewScript(`
		local had = redis.call("GET", KEYS[1])
		if had and had ~= ARGV[1] then return 0 end
		redis.call("SET", KEYS[1], ARGV[2])
		return 1`)
	watched := false
	raw := rawClient{
		dirs: 10, perDir: 200,
		put: func(value []byte) error {
			if !watched {
				return c.Set(ctx, name, value, 0).Err()
			}
			_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Set(ctx, name, value, 0)
				p.Publish(ctx, channel, value)
				return nil
			})
			return err
		},
		get: func() ([]byte, error) { return c.Get(ctx, name).Bytes() },
		cas: func() error {
			ok, err := swap.Run(ctx, c, []string{root + "-raw/cas"}, benchValue, benchValue).Bool()
			if err == nil && !ok {
				err = errors.New("somebody else has written")
			}
			return err
		},
		list: func() (int, error) {
			var names []string
			for cursor := uint64(0); ; {
				page, next, err := c.Scan(ctx, cursor, root+"/many/*", 1000).Result()
				if err != nil {
					return 0, err
				}
				names = append(names, page...)
				if cursor = next; cursor == 0 {
					break
				}
			}
			slices.Sort(names)
			names = slices.Compact(names) // SCAN may tell one twice
			n := 0
			for part := range slices.Chunk(names, 500) {
				values, err := c.MGet(ctx, part...).Result()
				if err != nil {
					return 0, err
				}
				n += len(values)
			}
			return n, nil
		},
		watch: func(b *testing.B) func() error {
			sub := c.Subscribe(ctx, channel)
			if _, err := sub.Receive(ctx); err != nil {
				b.Fatal(err)
			}
			watched = true
			b.Cleanup(func() { watched = false; sub.Close() })
			return func() error { _, err := sub.ReceiveMessage(ctx); return err }
		},
	}
	raw.compare(b, s)
}
