package rediskv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
)

// probe finds out whether the server sends keyspace notifications for the commands that change strings. It asks no
// configuration, which is often forbidden: it subscribes, changes a key of its own, and publishes. The server sends one
// connection its messages in order, so when the published one arrives without notifications before it, there are none.
func (s *Store) probe(ctx context.Context) (on bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.opt.DialTimeout)
	defer cancel()
	sub := s.subscribe(ctx)
	defer sub.Close()
	stop := context.AfterFunc(ctx, func() { sub.Close() }) // Receive does not honour ctx
	defer stop()

	_, channel := s.names.keyspace(database(s.client))
	mark := rand.Text()
	if err := sub.add(ctx, s.names.events); err != nil {
		return false, s.unprobed(ctx, err)
	}
	if err := sub.Subscribe(ctx, channel); err != nil { // never sharded
		return false, s.unprobed(ctx, err)
	}
	seen := map[string]bool{}
	for confirmed := 0; ; {
		message, err := sub.Receive(ctx)
		if err != nil {
			return false, s.unprobed(ctx, err)
		}
		switch m := message.(type) {
		case *redis.Subscription:
			if confirmed++; confirmed == 2 {
				names, args := s.frame(1)
				if _, err := s.runRead(ctx, s.scripts.probe, append(names, s.names.probe), append(args, mark)...); err != nil {
					return false, s.unprobed(ctx, err)
				}
			}
		case *redis.Message:
			if m.Channel == channel {
				seen[m.Payload] = true
			}
			if m.Channel == s.names.events && m.Payload == mark {
				return seen["set"] && seen["del"], nil
			}
		}
	}
}

// unprobed decides what a probe that failed means: nothing is seen where subscribing is forbidden, and everything else
// is an error of the call.
func (s *Store) unprobed(ctx context.Context, err error) error {
	if err = readError(ctx, err); errors.Is(err, backend.ErrPermission) {
		s.opt.Logger.Info("redis: no right to subscribe; watches poll", "error", err)
		return nil
	}
	return fmt.Errorf("looking for keyspace notifications: %w", err)
}

// subscription is a connection for messages. On Redis Cluster it is to the server of the root's slot, which alone has
// the notifications, and the channels are sharded ones.
type subscription struct {
	*redis.PubSub
	sharded bool
}

func (s *Store) subscribe(ctx context.Context) subscription {
	if s.cluster != nil {
		return subscription{s.client.SSubscribe(ctx), true}
	}
	return subscription{s.client.Subscribe(ctx), false}
}

func (s subscription) add(ctx context.Context, channels ...string) error {
	if s.sharded {
		return s.SSubscribe(ctx, channels...)
	}
	return s.Subscribe(ctx, channels...)
}
