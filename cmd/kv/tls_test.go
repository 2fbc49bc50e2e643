package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/polykv/kv"
)

// pair writes a self-signed certificate and its key.
func pair(t *testing.T) (cert, key string) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, b := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der},
		key:  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestTLS(t *testing.T) {
	sh := memory(t)
	cert, key := pair(t)
	var conf *tls.Config
	open := sh.drivers
	sh.drivers = func(c *tls.Config) kv.Drivers { conf = c; return open(c) }

	sh.ok("ls")
	if conf != nil {
		t.Error("TLS is configured without being asked for")
	}
	sh.ok("-cacert " + cert + " ls")
	if conf == nil || conf.RootCAs == nil || len(conf.Certificates) != 0 {
		t.Errorf("-cacert: %+v", conf)
	}
	sh.ok("-cert " + cert + " -key " + key + " ls")
	if conf == nil || conf.RootCAs != nil || len(conf.Certificates) != 1 {
		t.Errorf("-cert, -key: %+v", conf)
	}
	for _, line := range []string{"-cert " + cert, "-key " + key, "-cacert " + key, "-cacert nowhere", "-cert " + key + " -key " + cert} {
		sh.want(exitUsage, "", line+" ls")
	}
}
