# Varnish in front of the origin: all of it in memory, its usual place, for a day; absences a
# minute. Two thread pools (its default) suit few cores, and their threads are as many as there
# are busy connections. It does no TLS. There is no access log: its log in shared memory is part
# of it and stays.
vcl 4.1;

backend origin {
    .host = "127.0.0.1";
    .port = "@ORIGIN_PORT@";
}

sub vcl_backend_response {
    if (beresp.status == 200) {
        set beresp.ttl = 1d;
    } else if (beresp.status == 404) {
        set beresp.ttl = 1m;
        set beresp.grace = 0s;
    }
    return (deliver);
}
