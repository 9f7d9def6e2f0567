{
  "targets": [
    {
      "target_name": "holdfast_native",
      "sources": [
        "background.cc",
        "block_device.cc",
        "crc32c.cc",
        "fuse_channel.cc",
        "meta_pages.cc",
        "module.cc",
        "mount.cc",
        "napi_util.cc",
        "notify_thread.cc",
        "posix_calls.cc",
        "process.cc",
        "send_queue.cc",
        "service_manager.cc",
        "socket.cc",
        "spin.cc",
        "stream_socket.cc",
        "stream_socket_tls.cc",
        "tls_context.cc",
        "tls_error.cc",
        "tls_handshake.cc",
        "tls_library.cc",
        "tls_records.cc"
      ],
      "defines": ["NAPI_VERSION=8", "_GNU_SOURCE"],
      "cflags": ["-Wall", "-Wextra", "-Werror", "-O2"],
      "cflags_cc": ["-std=c++17"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags!": ["-O3", "-Wno-unused-parameter"],
      "ldflags": ["-pthread"]
    },
    {
      "target_name": "holdfast_keeper",
      "type": "executable",
      "sources": ["keeper.cc"],
      "defines": ["_GNU_SOURCE"],
      "cflags": ["-Wall", "-Wextra", "-Werror", "-O2"],
      "cflags_cc": ["-std=c++17"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags!": ["-O3", "-Wno-unused-parameter"]
    }
  ]
}
