package prove

import (
	"context"
	"testing"
)

func TestEtcd(t *testing.T) {
	target, err := Etcd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	for i, f := range target.Faults {
		r := &Round{Target: target, Fault: f, Seed: uint64(i) + 1, Ops: 1500, Cycles: 2, Dir: "/tmp/prove-pics", Log: t.Logf}
		res, err := r.Run(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", res)
		if len(res.Violations) > 0 {
			t.Errorf("%s: %v", f.Name, res.Violations)
		}
	}
}
