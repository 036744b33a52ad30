package proxy

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// This file is how TLS sessions are resumed, in both directions.

// sessionTicketKey is the size of one of session_ticket_keys.
const sessionTicketKey = 80

// sessionTickets compiles what a listener says of sessions. crypto/tls resumes
// those that clients keep (tickets), none that it would have to keep itself.
func (b *builder) sessionTickets(path string, c *tlsv3.DownstreamTlsContext, t *transportSocket) error {
	t.config.SessionTicketsDisabled = c.GetDisableStatelessSessionResumption()
	if t.config.SessionTicketsDisabled && !c.GetDisableStatefulSessionResumption() {
		return b.boot.Unsupported(path+".disable_stateless_session_resumption", "sessions that the server keeps: they need disable_stateful_session_resumption too")
	}
	t.sessionTimeout = c.GetSessionTimeout().AsDuration()
	var keys [][32]byte
	for i, source := range c.GetSessionTicketKeys().GetKeys() {
		path := at(path+".session_ticket_keys", "keys", i)
		key, err := b.dataSource(path, source)
		if err != nil {
			return err
		}
		if len(key) != sessionTicketKey {
			return b.boot.Errorf(path, "Incorrect TLS session ticket key length. Length %d, expected length %d.", len(key), sessionTicketKey)
		}
		keys = append(keys, sha256.Sum256([]byte(key)))
	}
	if len(keys) == 0 {
		keys = make([][32]byte, 1)
		rand.Read(keys[0][:])
	}
	t.config.SetSessionTicketKeys(keys)
	// What a session was made by: another context does not take it.
	sum := sha256.New()
	for _, certificate := range t.config.Certificates {
		sum.Write(certificate.Leaf.Raw)
	}
	if t.verify.authority != nil {
		sum.Write(t.verify.authority.Raw)
	}
	sum.Write([]byte(c.GetCommonTlsContext().GetValidationContext().String()))
	copy(t.sessionContext[:], sum.Sum(nil))
	return nil
}

// resumes has a connection give tickets and take them.
func (t *transportSocket) resumes(s *secure, config *tls.Config) {
	const size = 8 + sha256.Size
	made := time.Now().Unix()
	config.WrapSession = func(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		session.Extra = append(session.Extra, append(binary.BigEndian.AppendUint64(nil, uint64(made)), t.sessionContext[:]...))
		return t.config.EncryptTicket(state, session)
	}
	config.UnwrapSession = func(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		session, err := t.config.DecryptTicket(ticket, state)
		if session == nil || err != nil || len(session.Extra) == 0 {
			return nil, err
		}
		extra := session.Extra[len(session.Extra)-1]
		if len(extra) != size || [sha256.Size]byte(extra[8:]) != t.sessionContext {
			return nil, nil
		}
		at := int64(binary.BigEndian.Uint64(extra))
		if limit := int64(t.sessionTimeout / time.Second); state.Version <= tls.VersionTLS12 && limit > 0 && time.Now().Unix()-at >= limit {
			return nil, nil // BoringSSL has another limit for TLS 1.3, of two days
		}
		made = at // it does not live longer for being resumed
		s.session = idOf(ticket)
		return session, nil
	}
}

// idOf is the id that BoringSSL gives a session for which there is a ticket.
func idOf(ticket []byte) string {
	sum := sha256.Sum256(ticket)
	return hex.EncodeToString(sum[:])
}

// sessionID is the id of the session, as long as a ticket stands for it:
// crypto/tls tells no other. TLS 1.3 has none.
func (s *secure) sessionID() string {
	if s.state.Version > tls.VersionTLS12 {
		return ""
	}
	return s.session
}

// upstreamSessions are the sessions that a cluster may resume, the last one
// first, with whatever host they were made (max_session_keys).
type upstreamSessions struct {
	mu     sync.Mutex
	most   int
	once   bool // TLS 1.3: each of them may be used once
	stored []*tls.ClientSessionState
}

// of is the cache for one connection.
func (u *upstreamSessions) of(s *secure) tls.ClientSessionCache { return &sessionsOf{u, s} }

// sessionsOf notes which session a connection has.
type sessionsOf struct {
	*upstreamSessions
	secure *secure
}

func (c *sessionsOf) note(session *tls.ClientSessionState) {
	if ticket, _, err := session.ResumptionState(); err == nil {
		c.secure.session = idOf(ticket)
	}
}

// Get implements tls.ClientSessionCache.
func (c *sessionsOf) Get(string) (*tls.ClientSessionState, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.stored) == 0 {
		return nil, false
	}
	session := c.stored[0]
	if c.once {
		c.stored = c.stored[1:]
	}
	c.note(session)
	return session, true
}

// Put implements tls.ClientSessionCache; nil is that the one given last is of no
// use.
func (c *sessionsOf) Put(_ string, session *tls.ClientSessionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case session != nil:
		c.note(session)
		if c.most > 0 {
			c.stored = append([]*tls.ClientSessionState{session}, c.stored[:min(len(c.stored), c.most-1)]...)
		}
	case len(c.stored) > 0 && !c.once:
		c.stored = c.stored[1:]
	}
}

// shaken learns of a handshake.
func (u *upstreamSessions) shaken(s *tls.ConnectionState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.once = s.Version == tls.VersionTLS13
}
